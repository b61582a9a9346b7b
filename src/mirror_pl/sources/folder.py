"""What is in one folder, or in one folder of a shard."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Folder:
    """One folder's images, in the order of their names. A tar shard is a folder too, and so is each folder in it.

    Attributes:
        parts: Names of the folders from where the walk began down to this one.
        names: File names of images, as far as their suffix tells.
        sizes: Bytes; -1 where it cannot be read.
        mtimes: Time of last change in ns; -1 where it cannot be read.
        others: Names of files with other suffixes.
        shard: Tar that the images lie in, by its names below where the walk began joined by slashes; "" for files of their
            own. Its name is one of `parts`.
        offsets: Where each image begins in that tar, in bytes; empty for files of their own.
    """

    parts: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    shard: str = ""
    offsets: list[int] = field(default_factory=list)


def suffix_of(name: str) -> str:
    """Return a file name's suffix, lower case, with the dot; "" where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""
