"""The images in a tar, listed and read in place."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Set
from pathlib import Path

from mirror_pl.sources.folder import Folder, suffix_of

SHARD_SUFFIX = ".tar"
NOWHERE = (-1, -1)
"""Place of a member that is no file: a symbolic link, or a hard link to what is not in the tar."""
BLOCK = 10240
"""Bytes read at once: the zeros after a tar's last member are this many at most, as a rule."""


def list_shard(path: Path, parts: tuple[str, ...], suffixes: Set[str], skip: Set[str]) -> list[Folder]:
    """List the images in a tar, by folder as their keys say; a member written twice counts once, as its last.

    Args:
        path: The tar.
        parts: Names from where the walk began down to the tar, its own included.
        suffixes: Suffixes of images, lower case, with the dot.
        skip: Names of folders passed over, lower case.

    Raises:
        OSError: If the tar is no regular file, cannot be read, is damaged, compressed, or ends early.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
            raise OSError("a pipe or device, not a file")
        mtime = status.st_mtime_ns
        places: dict[str, tuple[int, int]] = {}
        members: dict[str, dict[str, tuple[int, int]]] = {}
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isdir():
                    continue
                full_name = member.name.removeprefix("./")
                if member.isreg() and not member.issparse():
                    place = (member.offset_data, member.size)
                else:  # a hard link is another name of an earlier member; nothing else has bytes of its own
                    place = places.get(member.linkname.removeprefix("./"), NOWHERE) if member.islnk() else NOWHERE
                places[full_name] = place
                above, _, name = full_name.rpartition("/")
                members.setdefault(above, {})[name] = place
            end = shard.offset
        _check_end(path, end)
    except tarfile.TarError as error:
        raise OSError(f"not a tar that can be read in place: {error}") from error
    folders = []
    for above, here in sorted(members.items()):
        inner = tuple(part for part in above.split("/") if part)
        if skip & {part.lower() for part in inner}:
            continue
        folder = Folder((*parts, *inner), shard="/".join(parts))
        for name, (offset, size) in sorted(here.items()):
            if suffix_of(name) in suffixes and (offset, size) != NOWHERE:
                folder.names.append(name)
                folder.sizes.append(size)
                folder.mtimes.append(mtime)
                folder.offsets.append(offset)
            else:
                folder.others.append(name)
        folders.append(folder)
    return folders


def _check_end(path: Path, end: int) -> None:
    """Check that a tar ends as it should: tarfile takes the first header that it cannot read for the end, silently."""
    with path.open("rb") as opened:
        opened.seek(end)
        rest = opened.read(BLOCK)
        if not rest:
            raise OSError("the tar ends early: its closing block is missing")
        while rest:
            if any(rest):
                raise OSError(f"the tar is damaged at byte {end}, or several were joined: what follows cannot be listed")
            rest = opened.read(BLOCK)
