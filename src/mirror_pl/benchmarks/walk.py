"""One walk over a tree, tar shards included: what is in each folder, and what its name says of the images in it."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from mirror_pl.benchmarks.manifest import Layout
from mirror_pl.benchmarks.tree import ListedFolder, folders_below
from mirror_pl.labels import REAL


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
            if suffix_of(name) == SHARD_SUFFIX and SHARD_SUFFIX not in suffixes:
                _take_shard(Path(listed.path, name), (*parts, name), suffixes, skip, result)
    return result


def _take(listed: ListedFolder, parts: tuple[str, ...], suffixes: Set[str], shards: bool, result: Walk) -> None:
    """Add a folder's images, and note its other files."""
    folder = Folder(parts)
    for name in sorted([*listed.files, *(name for name in listed.inner if suffix_of(name) in suffixes)]):
        suffix = suffix_of(name)
        if suffix in suffixes:
            try:
                status = os.stat(os.path.join(listed.path, name))
                size, mtime = status.st_size, status.st_mtime_ns
            except OSError:
                size = mtime = -1
            folder.names.append(name)
            folder.sizes.append(size)
            folder.mtimes.append(mtime)
        elif name in listed.odd:
            error = listed.odd[name]
            result.unreadable["/".join((*parts, name))] = error.strerror or str(error)
        elif not shards or suffix != SHARD_SUFFIX:
            folder.others.append(name)
    if folder.names or folder.others:
        result.folders.append(folder)


def _take_shard(path: Path, parts: tuple[str, ...], suffixes: Set[str], skip: Set[str], result: Walk) -> None:
    """Add the folders in a tar."""
    try:
        result.directories["/".join(parts)] = folder_mtime(path)
        result.folders.extend(list_shard(path, parts, suffixes, skip))
    except OSError as error:
        result.unreadable["/".join(parts)] = error.strerror or str(error)


def folder_mtime(path: Path) -> int:
    """Return a folder's time of last change in ns; -1 where it cannot be read."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


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


def labels_of(listed: Walk, layout: Layout) -> list[int | None]:
    """Label each folder of a walk: by its innermost name that decides one, else as bare, where no folder decides any."""
    by_name = {name.casefold(): label for name, label in layout.labels.items()}

    def label(folder: Folder) -> int | None:
        return next((by_name[part.casefold()] for part in reversed(folder.parts) if part.casefold() in by_name), None)

    labels = [label(folder) for folder in listed.folders]
    if layout.bare is not None and all(label is None for label in labels):
        return [layout.bare] * len(labels)
    return labels


def class_of(folder: Folder, layout: Layout) -> str:
    """Name the folder right above the innermost one that decides a label; "" where that is the subset's, or a tar shard."""
    names = {name.casefold() for name in layout.labels}
    deciding = [position for position, part in enumerate(folder.parts) if part.casefold() in names]
    above = deciding[-1] - 1 if deciding else -1
    is_shard = bool(folder.shard) and above == folder.shard.count("/")
    return folder.parts[above] if above >= 0 and not is_shard else ""


def labels_of_reals(listed: Walk) -> list[int | None]:
    """All images of a shared set are real, but what lies in a folder of fakes."""
    fakes = {"1_fake", "fake", "ai"}
    return [None if fakes & {part.casefold() for part in folder.parts} else REAL for folder in listed.folders]


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
