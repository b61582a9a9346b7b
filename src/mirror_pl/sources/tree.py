"""Folders below a folder, one after the other, in a fixed order: what `os.walk` does, sorted, and safe against loops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from mirror_pl.sources.place import is_remote, list_remote, stat_of

# Names stay the text that they were given as, which pathlib would tidy, and pathlib is slow for a million files.


@dataclass
class ListedFolder:
    """A folder's content.

    Attributes:
        path: Of the folder.
        files: Names of its files, sorted.
        inner: Names of its folders, sorted; those that are taken out are not gone into.
        mtime_ns: Its time of last change before it was listed; -1 where it cannot be read.
        odd: Why some of its files cannot be told to be none of its folders, by their names.
        error: Why it could not be listed; None if it could.
    """

    path: str
    files: list[str] = field(default_factory=list)
    inner: list[str] = field(default_factory=list)
    mtime_ns: int = -1
    odd: dict[str, OSError] = field(default_factory=dict)
    error: OSError | None = None


def folders_below(path: str) -> Iterator[ListedFolder]:
    """Yield a folder, and then those below it: each with all below it before the next.

    Symbolic links are followed, but not to a folder above the link. What cannot be told to be a folder counts as a file.

    Args:
        path: Of a folder.
    """
    left: list[tuple[str, tuple[tuple[int, int], ...]]] = [(path, ())]
    while left:  # no recursion: folders may lie deeper than Python's stack is
        here, above = left.pop()
        try:
            status = stat_of(here)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # everything in it is seen there
                continue
            folder = ListedFolder(here, mtime_ns=status.st_mtime_ns)
            _list(folder)
        except OSError as error:
            yield ListedFolder(here, error=error)
            continue
        yield folder
        below = (*above, identity)
        left.extend((os.path.join(here, name), below) for name in reversed(folder.inner))


def _list(folder: ListedFolder) -> None:
    if is_remote(folder.path):
        for name, is_folder in list_remote(folder.path):
            (folder.inner if is_folder else folder.files).append(name)
        return
    with os.scandir(folder.path) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link to itself, or into a folder that may not be searched
                is_folder, folder.odd[entry.name] = False, error
            (folder.inner if is_folder else folder.files).append(entry.name)
    folder.files.sort()
    folder.inner.sort()
