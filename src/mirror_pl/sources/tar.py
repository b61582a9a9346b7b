"""The files in a tar, listed and read in place: a member's place is where its bytes begin."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

from mirror_pl.sources.members import Member

_BLOCK: Final = 10240
"""Bytes read at once: the zeros after a tar's last member are this many at most, as a rule."""


def list_tar(path: Path) -> list[Member]:
    """List the files in a tar; what has no bytes of its own, such as a symbolic link, has no place.

    Raises:
        OSError: If the tar cannot be read, is damaged, compressed, or ends early.
    """
    members: dict[str, Member] = {}
    try:
        with path.open("rb") as opened, tarfile.open(fileobj=opened, mode="r:") as shard:
            for member in shard:
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                if member.isreg() and not member.issparse():
                    found = Member(name, member.offset_data, member.size)
                else:  # a hard link is another name of an earlier member; nothing else has bytes of its own
                    target = members.get(member.linkname.removeprefix("./")) if member.islnk() else None
                    found = Member(name, None, -1) if target is None else target._replace(name=name)
                members[name] = found
            end = shard.offset
        _check_end(path, end)
    except tarfile.TarError as error:
        raise OSError(f"not a tar that can be read in place: {error}") from error
    return list(members.values())


def read_part(path: Path, place: int, size: int) -> bytes:
    """Return `size` bytes of a file, from `place` on.

    Raises:
        OSError: If it cannot be read, or ends before.
    """
    with path.open("rb") as opened:
        opened.seek(place)
        content = opened.read(size)
    if len(content) < size:
        raise OSError(f"{path.name} ends {size - len(content)} bytes before this image does")
    return content


def _check_end(path: Path, end: int) -> None:
    """Check that a tar ends as it should: tarfile takes the first header that it cannot read for the end, silently."""
    with path.open("rb") as opened:
        opened.seek(end)
        rest = opened.read(_BLOCK)
        if not rest:
            raise OSError("the tar ends early: its closing block is missing")
        while rest:
            if any(rest):
                raise OSError(f"the tar is damaged at byte {end}, or several were joined: what follows cannot be listed")
            rest = opened.read(_BLOCK)
