"""Walks kept on disk, so that a second start does not list a million files again.

A kept walk is used while no folder in it has changed: a file that appears, goes or is renamed changes its folder's time of
last change. A file overwritten in place does not; its kept size and time are then those of before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.errors import OutputError
from mirror_pl.files import RACY_NS, open_stored_zip, whole_file
from mirror_pl.sources.folder import Folder
from mirror_pl.sources.place import is_remote
from mirror_pl.sources.shards import is_shard
from mirror_pl.sources.walk import Walk, folder_mtime, walk

FORMAT = "3"


def cached_walk(
    path: Path,
    suffixes: Set[str],
    skip: Set[str],
    cache: Path | None,
    shards: bool = False,
    label: str | None = None,
) -> Walk:
    """List the images below `path` as `walk` does, from `cache` where that is still true.

    Args:
        path: An existing folder, or a shard.
        suffixes: Suffixes of images, lower case, with the dot.
        skip: Names of folders not entered, lower case.
        cache: Folder to keep walks in; None keeps none. One that cannot be written is no error.
        shards: Look into shards too, as into folders.
        label: See `list_shard`.
    """
    if cache is None or is_remote(path):  # whose times of change are not to be relied on
        return walk(path, suffixes, skip, shards, label)
    key = "\0".join([FORMAT, str(path.resolve()), *sorted(suffixes), "", *sorted(skip), "", str(shards), repr(label)])
    file = cache / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
    kept = _read(file, path.parent if is_shard(path) else path)
    if kept is not None:
        return kept
    started = time.time_ns()
    result = walk(path, suffixes, skip, shards, label)
    if not result.unreadable and all(mtime < started - RACY_NS for mtime in result.directories.values()):
        with suppress(OutputError, OSError):
            cache.mkdir(parents=True, exist_ok=True)
            _write(file, result)
    return result


def _write(file: Path, result: Walk) -> None:
    folders = result.folders
    columns = {
        "directories": _join(result.directories),
        "directory_mtimes": np.array(list(result.directories.values()), np.int64),
        "folders": _join("/".join(folder.parts) for folder in folders),
        "shards": _join(folder.shard for folder in folders),
        "counts": _lengths(folders, (*_TEXTS, *_NUMBERS, "problems")),
        "problems": _join(name for folder in folders for name in folder.problems),
        "reasons": _join(reason for folder in folders for reason in folder.problems.values()),
    }
    columns |= {name: _join(text for folder in folders for text in getattr(folder, name)) for name in _TEXTS}
    columns |= {name: np.array([n for folder in folders for n in getattr(folder, name)], np.int64) for name in _NUMBERS}
    with whole_file(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **columns)  # type: ignore[arg-type]  # its annotation takes the names for flags


_TEXTS: Final = ("names", "others", "labels")
_NUMBERS: Final = ("sizes", "mtimes", "offsets")


def _lengths(folders: list[Folder], columns: tuple[str, ...]) -> NDArray[np.int64]:
    lengths = [[len(getattr(folder, name)) for name in columns] for folder in folders]
    return np.array(lengths, np.int64).reshape(-1, len(columns))


def _read(file: Path, path: Path) -> Walk | None:
    """Return a kept walk, or None where there is none, it is damaged, or a folder has changed."""
    try:
        with open_stored_zip(file) as members:
            if members.testzip() is not None:  # numpy does not read to the end of a member, where its checksum is compared
                return None
        with np.load(file, allow_pickle=False) as archive:
            kept = dict(archive)
        names = _split(kept["directories"])
        directories = dict(zip(names, kept["directory_mtimes"].tolist(), strict=True))
        if any(folder_mtime(path / name) != mtime for name, mtime in directories.items()):
            return None
        columns: list[Iterator[Any]] = [iter(_split(kept[name])) for name in _TEXTS]
        columns += [iter(kept[name].tolist()) for name in _NUMBERS]
        columns.append(zip(_split(kept["problems"]), _split(kept["reasons"]), strict=True))
        folders = []
        every = zip(_split(kept["folders"]), kept["counts"].tolist(), _split(kept["shards"]), strict=True)
        for name, counts, shard in every:
            *lists, problems = [_take(column, count) for column, count in zip(columns, counts, strict=True)]
            parts = tuple(name.split("/")) if name else ()
            own = dict(zip((*_TEXTS, *_NUMBERS), lists, strict=True))
            folders.append(Folder(parts, shard=shard, problems=dict(problems), **own))
        return Walk(path, folders, {}, directories)
    except Exception:  # zipfile and numpy raise many kinds on damage, and a listing can always be made anew
        return None


def _join(names: Iterable[str]) -> NDArray[np.uint8]:
    """Pack names, which hold no NUL and perhaps bytes that are not UTF-8, into one array."""
    return np.frombuffer("".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape"), np.uint8)


def _split(packed: NDArray[np.uint8]) -> list[str]:
    return packed.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]


def _take(column: Iterator[Any], count: int) -> list[Any]:
    taken = list(islice(column, count))
    if len(taken) < count:
        raise ValueError("a kept walk has fewer entries than it says")
    return taken
