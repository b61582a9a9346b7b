"""One walk over a tree, shards included: what is in each folder."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from mirror_pl.sources.folder import Folder, suffix_of
from mirror_pl.sources.place import is_folder, is_remote, path_of, stat_of
from mirror_pl.sources.shards import SHARD_SUFFIXES, is_shard, list_shard
from mirror_pl.sources.tree import ListedFolder, folders_below


@dataclass
class Walk:
    """All folders below one.

    Attributes:
        path: Where the walk began; for a single shard the folder that it lies in.
        folders: Each folder below it that holds a file, itself included; parents before children.
        unreadable: Why a folder could not be listed, by its names below `path` joined by slashes.
        directories: Time of last change, in ns, of every folder and shard that was listed, by its names below `path` joined
            by slashes, as it was before the listing.
    """

    path: Path
    folders: list[Folder] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    directories: dict[str, int] = field(default_factory=dict)


def walk(
    path: Path, suffixes: Set[str], skip: Set[str] = frozenset(), shards: bool = False, label: str | None = None
) -> Walk:
    """List the images below `path`, or in it where it is a shard.

    Symbolic links are followed, but not to a folder above the link. A folder named like an image is both: a sample, which
    will be found undecodable, and a folder.

    Args:
        path: An existing folder, or a shard.
        suffixes: Suffixes of images, lower case, with the dot.
        skip: Names of folders not entered, lower case.
        shards: Look into shards too, as into folders; otherwise they are files like any other.
        label: See `list_shard`.
    """
    if is_shard(path):
        result = Walk(path.parent)
        _take_shard(path, (path.name,), suffixes, skip, label, result)
        return result
    result, root = Walk(path), str(path)
    for listed in folders_below(root):
        parts = tuple(part for part in listed.path[len(root) :].split(os.sep) if part)
        if listed.mtime_ns != -1 or listed.error is None:
            result.directories["/".join(parts)] = listed.mtime_ns
        if listed.error is not None:
            result.unreadable["/".join(parts) or "."] = listed.error.strerror or str(listed.error)
            continue
        _take(listed, parts, suffixes, shards, result)
        listed.inner[:] = [name for name in listed.inner if name.lower() not in skip]
        for name in listed.files if shards else ():
            if suffix_of(name) in SHARD_SUFFIXES:
                _take_shard(path_of(os.path.join(listed.path, name)), (*parts, name), suffixes, skip, label, result)
    return result


def _take(listed: ListedFolder, parts: tuple[str, ...], suffixes: Set[str], shards: bool, result: Walk) -> None:
    """Add a folder's images, and note its other files."""
    folder = Folder(parts)
    state_of = stat_of if is_remote(listed.path) else os.stat  # told once, not for each of a million files
    for name in sorted([*listed.files, *(name for name in listed.inner if suffix_of(name) in suffixes)]):
        suffix = suffix_of(name)
        if suffix in suffixes:
            try:
                status = state_of(os.path.join(listed.path, name))
                size, mtime = status.st_size, status.st_mtime_ns
            except OSError:
                size = mtime = -1
            folder.names.append(name)
            folder.sizes.append(size)
            folder.mtimes.append(mtime)
        elif name in listed.odd:
            error = listed.odd[name]
            result.unreadable["/".join((*parts, name))] = error.strerror or str(error)
        elif not shards or suffix not in SHARD_SUFFIXES:
            folder.others.append(name)
    if folder.names or folder.others:
        result.folders.append(folder)


def _take_shard(
    path: Path, parts: tuple[str, ...], suffixes: Set[str], skip: Set[str], label: str | None, result: Walk
) -> None:
    """Add the folders in a shard."""
    try:
        result.directories["/".join(parts)] = folder_mtime(path)
        result.folders.extend(list_shard(path, parts, suffixes, skip, label))
    except OSError as error:
        result.unreadable["/".join(parts)] = error.strerror or str(error)


def folder_mtime(path: Path) -> int:
    """Return a folder's time of last change in ns; -1 where it cannot be read."""
    try:
        return stat_of(path).st_mtime_ns
    except OSError:
        return -1


def find_folder(root: Path, relative: str) -> Path | None:
    """Return the folder `relative` below `root`, or None. Letter case does not matter; an exact match is preferred."""
    here = root
    for part in relative.split("/"):
        if part == ".":
            continue
        if not is_folder(here / part):
            try:
                names = sorted(inner.name for inner in here.iterdir())
            except OSError:
                return None
            folded = [name for name in names if name.casefold() == part.casefold() and is_folder(here / name)]
            if not folded:
                return None
            part = folded[0]
        here = here / part
    return here if is_folder(here) else None
