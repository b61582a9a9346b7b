"""Listing folders: every folder once, in a fixed order, with the sizes and times of the images in it. Opens no image."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from mirror_pl.benchmarks.folder import Folder, suffix_of
from mirror_pl.benchmarks.shards import SHARD_SUFFIX, list_shard


@dataclass
class Walk:
    """All folders below one.

    Attributes:
        path: Where the walk began.
        folders: Each folder below it that holds a file, itself included; parents before children.
        unreadable: Why a folder could not be listed, by its names below `path` joined by slashes.
        directories: Time of last change, in ns, of every folder and shard that was listed, by its names below `path` joined
            by slashes, as it was before the listing.
    """

    path: Path
    folders: list[Folder] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    directories: dict[str, int] = field(default_factory=dict)


def walk(path: Path, suffixes: Set[str], skip: Set[str] = frozenset(), shards: bool = False) -> Walk:
    """List the images below `path`.

    Symbolic links are followed, but not to a folder above the link. A folder named like an image is both: a sample, which
    will be found undecodable, and a folder.

    Args:
        path: An existing folder.
        suffixes: Suffixes of images, lower case, with the dot.
        skip: Names of folders not entered, lower case.
        shards: Look into tar files too, as into folders; otherwise they are files like any other.
    """
    result = Walk(path)
    _walk(str(path), (), (), suffixes, skip, shards, result)
    return result


def folder_mtime(path: Path) -> int:
    """Return a folder's time of last change in ns; -1 where it cannot be read."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def _walk(
    path: str,
    parts: tuple[str, ...],
    above: tuple[tuple[int, int], ...],
    suffixes: Set[str],
    skip: Set[str],
    shards: bool,
    result: Walk,
) -> None:
    try:
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder above: everything in it is seen there
            return
        result.directories["/".join(parts)] = status.st_mtime_ns
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        result.unreadable["/".join(parts) or "."] = error.strerror or str(error)
        return
    folder = Folder(parts)
    inner: list[str] = []
    tars: list[str] = []
    for entry in ordered:
        name = entry.name
        suffix = suffix_of(name)
        is_image = suffix in suffixes
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a link to itself, or into a folder that may not be searched
            if not is_image:
                result.unreadable["/".join((*parts, name))] = error.strerror or str(error)
                continue
            is_folder = False
        if is_folder and name.lower() not in skip:
            inner.append(name)
        if is_image:
            try:
                status = entry.stat()
                folder.sizes.append(status.st_size)
                folder.mtimes.append(status.st_mtime_ns)
            except OSError:
                folder.sizes.append(-1)
                folder.mtimes.append(-1)
            folder.names.append(name)
        elif shards and suffix == SHARD_SUFFIX and not is_folder:
            tars.append(name)
        elif not is_folder:
            folder.others.append(name)
    if folder.names or folder.others:
        result.folders.append(folder)
    for name in tars:
        shard = (*parts, name)
        try:
            result.directories["/".join(shard)] = folder_mtime(Path(path, name))
            result.folders.extend(list_shard(Path(path, name), shard, suffixes, skip))
        except OSError as error:
            result.unreadable["/".join(shard)] = error.strerror or str(error)
    for name in inner:
        _walk(os.path.join(path, name), (*parts, name), (*above, here), suffixes, skip, shards, result)


def find_folder(root: Path, relative: str) -> Path | None:
    """Return the folder `relative` below `root`, or None. Letter case does not matter; an exact match is preferred."""
    here = root
    for part in relative.split("/"):
        if part == ".":
            continue
        if not os.path.isdir(here / part):
            try:
                names = sorted(os.listdir(here))
            except OSError:
                return None
            folded = [name for name in names if name.casefold() == part.casefold() and os.path.isdir(here / name)]
            if not folded:
                return None
            part = folded[0]
        here = here / part
    return here if os.path.isdir(here) else None
