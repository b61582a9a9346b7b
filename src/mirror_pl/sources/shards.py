"""Files that hold many images, listed as folders and read in place. Only this module knows which kinds there are."""

from __future__ import annotations

import stat
from collections.abc import Callable, Set
from pathlib import Path
from typing import Final, NamedTuple

from mirror_pl.sources.folder import Folder, suffix_of
from mirror_pl.sources.members import Member, folders_of
from mirror_pl.sources.parquet import list_parquet, read_row
from mirror_pl.sources.tar import list_tar, read_part
from mirror_pl.sources.zip import list_zip, read_zip

LARGEST_BYTES: Final = 1_500_000_000
"""Of a member that is read: more than any picture has that is decoded, and less than most machines have memory."""


class _Kind(NamedTuple):
    members: Callable[[Path, str | None], list[Member]]
    read: Callable[[Path, int, int], bytes]
    rows: bool = False


_KINDS: Final = {
    ".tar": _Kind(lambda path, _: list_tar(path), read_part),
    ".zip": _Kind(lambda path, _: list_zip(path), read_zip),
    ".parquet": _Kind(list_parquet, read_row, rows=True),
}
SHARD_SUFFIXES: Final = frozenset(_KINDS)


def is_shard(path: Path) -> bool:
    """Whether this is a file whose name ends like a shard's."""
    return suffix_of(path.name) in SHARD_SUFFIXES and path.is_file()


def list_shard(
    path: Path, parts: tuple[str, ...], suffixes: Set[str], skip: Set[str] = frozenset(), label: str | None = None
) -> list[Folder]:
    """List the images in a shard, by folder as their names say; see `folders_of`.

    Args:
        path: The shard, with one of `SHARD_SUFFIXES`.
        parts: Names from where the walk began down to the shard, its own included.
        suffixes: Suffixes of images, lower case, with the dot. Each row of a Parquet file is an image, whatever its name.
        skip: Names of folders passed over, lower case.
        label: Column of a Parquet file that labels are in; None takes the first that is called as such columns are.

    Raises:
        OSError: If the shard is no regular file, cannot be read, is damaged, or ends early.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
        raise OSError("a pipe or device, not a file")
    kind = _KINDS[suffix_of(path.name)]
    return folders_of(kind.members(path, label), parts, suffixes, skip, status.st_mtime_ns, rows=kind.rows)


def read_member(path: Path, place: int, size: int) -> bytes:
    """Return the bytes of an image in a shard; of another file, `size` bytes from `place` on.

    Args:
        path: The file.
        place: As its `Folder` says.
        size: Likewise.

    Raises:
        OSError: If it cannot be read, is damaged, or has more than `LARGEST_BYTES`.
    """
    if size > LARGEST_BYTES:
        raise OSError(f"a member of {size:,} bytes, more than the {LARGEST_BYTES:,} that an image may have")
    kind = _KINDS.get(suffix_of(path.name))
    content = (kind.read if kind else read_part)(path, place, size)
    if len(content) > LARGEST_BYTES:
        raise OSError(f"a member of {len(content):,} bytes, more than the {LARGEST_BYTES:,} that an image may have")
    return content
