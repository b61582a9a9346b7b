"""Where files are: on this machine, or by a URL where fsspec reaches, such as ``s3://`` or ``hf://``."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from mirror_pl.errors import ConfigError

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def scheme_of(name: str) -> str:
    """Return how a URL begins, up to its slashes; empty for a name on this machine."""
    found = _URL.match(name)
    return found[0] if found else ""


def is_remote(name: str | Path) -> bool:
    """Whether a name is a URL."""
    return not isinstance(name, Path) and bool(scheme_of(str(name)))


def path_of(name: str | Path) -> Path:
    """Return the path of a name; of a URL, a `upath.UPath`, which is read in the same way.

    Raises:
        ConfigError: If nothing is installed that reaches it.
    """
    if not is_remote(name):
        return Path(name)
    return _remote(str(name))


def _remote(url: str) -> Path:
    try:
        from upath import UPath

        path = UPath(url)
        _ = path.fs  # what reaches it is imported only now
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url} cannot be reached: {' '.join(str(error).split())}; pip install 'mirror_pl[remote]', and what fsspec "
            "needs for it"
        ) from error
    return cast(Path, path)


class State(NamedTuple):
    """What is known of a file without reading it.

    Attributes:
        st_size: Bytes.
        st_mtime_ns: Time of last change, ns since the epoch; -1 where that is not known.
        st_mode: As `os.stat` says.
        st_dev: Its device; -1 for a URL.
        st_ino: Its number there; of a URL, one that follows from it.
    """

    st_size: int
    st_mtime_ns: int
    st_mode: int
    st_dev: int
    st_ino: int


def stat_of(name: str | Path) -> os.stat_result | State:
    """Return what is known of a file or folder without reading it.

    Raises:
        OSError: If it is not there, or cannot be looked at.
    """
    if not is_remote(name):
        return os.stat(name)
    found: Any = path_of(name).stat()
    modified = getattr(found, "st_mtime", 0) or 0
    return State(found.st_size, int(modified * 1e9) or -1, found.st_mode, -1, hash(str(name)))


def list_remote(url: str) -> list[tuple[str, bool]]:
    """Return the names in a folder by its URL, each with whether it is a folder, sorted.

    Raises:
        OSError: If it cannot be listed.
    """
    path: Any = path_of(url)
    found = path.fs.ls(path.path, detail=True)
    names = ((entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory") for entry in found)
    return sorted((name, is_folder) for name, is_folder in names if name and name != path.name)


def is_folder(name: str | Path) -> bool:
    """Whether this is a folder."""
    try:
        return stat.S_ISDIR(stat_of(name).st_mode)
    except (OSError, ValueError):
        return False
