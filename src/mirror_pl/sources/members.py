"""What is in a shard, whatever its format: members, and the folders that their names stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from typing import Final, NamedTuple

from mirror_pl.sources.folder import Folder, suffix_of


class Member(NamedTuple):
    """One file in a shard, or one row.

    Attributes:
        name: Its whole name, with forward slashes.
        place: Where it is, as the reader of the shard's format takes it; None for what has no bytes of its own.
        size: Bytes; -1 where only reading can tell.
        problem: Why it cannot be read, where that is known; else empty.
        label: What a label column says of it; None where there is no such column.
    """

    name: str
    place: int | None
    size: int
    problem: str = ""
    label: str | None = None


def folders_of(
    members: Iterable[Member],
    parts: tuple[str, ...],
    suffixes: Set[str],
    skip: Set[str],
    mtime: int,
    *,
    rows: bool = False,
) -> list[Folder]:
    r"""Put members into the folders that their names say, sorted; one written twice counts once, as its last.

    Nothing is ever unpacked, so a name leads nowhere. One with ``..`` in it is a problem all the same, since others may
    unpack by it; it is called by ``\x2e\x2e`` there.

    Args:
        members: Of one shard.
        parts: Names from where the walk began down to the shard, its own included.
        suffixes: Suffixes of images, lower case, with the dot.
        skip: Names of folders passed over, lower case.
        mtime: Of the shard, in ns.
        rows: Whether each member is an image, whatever its name, and keeps its place in the order.
    """
    by_folder: dict[str, dict[str, Member]] = {}
    for member in members:
        steps = _STEPS.split(member.name)
        if ".." in steps:
            name = "/".join(_ESCAPED if step == ".." else step for step in steps)
            by_folder.setdefault("", {})[name] = member._replace(problem="a name that leads out of the shard, by ..")
            continue
        above, _, name = member.name.removeprefix("./").rpartition("/")
        by_folder.setdefault(above, {})[name] = member
    folders = []
    for above, here in by_folder.items() if rows else sorted(by_folder.items()):
        inner = tuple(part for part in above.split("/") if part)
        if skip & {part.lower() for part in inner}:
            continue
        folder = Folder((*parts, *inner), shard="/".join(parts))
        for name, member in here.items() if rows else sorted(here.items()):
            if member.place is None or not (rows or suffix_of(name) in suffixes):
                folder.others.append(name)
            elif member.problem:
                folder.problems[name] = member.problem
            else:
                folder.names.append(name)
                folder.sizes.append(member.size)
                folder.mtimes.append(mtime)
                folder.offsets.append(member.place)
                if member.label is not None:
                    folder.labels.append(member.label)
        folders.append(folder)
    return folders


_STEPS: Final = re.compile(r"[/\\]")
_ESCAPED: Final = r"\x2e\x2e"
