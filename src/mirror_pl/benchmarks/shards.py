"""Tar shards, as webdataset writes them, listed in place: which images are in one, and where each begins.

Read with the standard library's tarfile, which gives the position of each member's bytes; an uncompressed tar can then be
read at any image, by any process, which webdataset's own streaming does not offer.
"""

from __future__ import annotations

import tarfile
from collections.abc import Set
from pathlib import Path

from mirror_pl.benchmarks.folder import Folder, suffix_of

SHARD_SUFFIX = ".tar"
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
        OSError: If the tar cannot be read, is damaged, compressed, or ends early.
    """
    try:
        mtime = path.stat().st_mtime_ns
        members: dict[str, dict[str, tuple[int, int]]] = {}
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if not member.isreg() or member.issparse():
                    continue
                above, _, name = member.name.removeprefix("./").rpartition("/")
                members.setdefault(above, {})[name] = (member.offset_data, member.size)
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
            if suffix_of(name) in suffixes:
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
