"""Walks kept on disk, so that a second start does not list a million files again.

A kept walk is used while no folder in it has changed: a file that appears, goes or is renamed changes its folder's time of
last change. A file overwritten in place does not; its kept size and time are then those of before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirror_pl.errors import OutputError
from mirror_pl.files import RACY_NS, open_stored_zip, whole_file
from mirror_pl.sources.folder import Folder
from mirror_pl.sources.walk import Walk, folder_mtime, walk

FORMAT = "2"


def cached_walk(path: Path, suffixes: Set[str], skip: Set[str], cache: Path | None, shards: bool = False) -> Walk:
    """List the images below `path` as `walk` does, from `cache` where that is still true.

    Args:
        path: An existing folder.
        suffixes: Suffixes of images, lower case, with the dot.
        skip: Names of folders not entered, lower case.
        cache: Folder to keep walks in; None keeps none. One that cannot be written is no error.
        shards: Look into tar files too, as into folders.
    """
    if cache is None:
        return walk(path, suffixes, skip, shards)
    key = "\0".join([FORMAT, str(path.resolve()), *sorted(suffixes), "", *sorted(skip), "", str(shards)])
    file = cache / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
    kept = _read(file, path)
    if kept is not None:
        return kept
    started = time.time_ns()
    result = walk(path, suffixes, skip, shards)
    if not result.unreadable and all(mtime < started - RACY_NS for mtime in result.directories.values()):
        with suppress(OutputError, OSError):
            cache.mkdir(parents=True, exist_ok=True)
            _write(file, result)
    return result


def _write(file: Path, result: Walk) -> None:
    folders = result.folders
    columns = {
        "directories": _join(result.directories),
        "directory_mtimes": np.array(list(result.directories.values()), np.int64),
        "folders": _join("/".join(folder.parts) for folder in folders),
        "counts": np.array([[len(folder.names), len(folder.others)] for folder in folders], np.int64).reshape(-1, 2),
        "names": _join(name for folder in folders for name in folder.names),
        "others": _join(name for folder in folders for name in folder.others),
        "sizes": np.array([size for folder in folders for size in folder.sizes], np.int64),
        "shards": _join(folder.shard for folder in folders),
        "offsets": np.array([offset for folder in folders for offset in folder.offsets], np.int64),
        "mtimes": np.array([mtime for folder in folders for mtime in folder.mtimes], np.int64),
    }
    with whole_file(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **columns)  # type: ignore[arg-type]  # its annotation takes the names for flags


def _read(file: Path, path: Path) -> Walk | None:
    """Return a kept walk, or None where there is none, it is damaged, or a folder has changed."""
    try:
        with open_stored_zip(file) as members:
            if members.testzip() is not None:  # numpy does not read to the end of a member, where its checksum is compared
                return None
        with np.load(file, allow_pickle=False) as archive:
            kept = dict(archive)
        names = _split(kept["directories"])
        directories = dict(zip(names, kept["directory_mtimes"].tolist(), strict=True))
        if any(folder_mtime(path / name) != mtime for name, mtime in directories.items()):
            return None
        images, others = iter(_split(kept["names"])), iter(_split(kept["others"]))
        sizes, mtimes = kept["sizes"].tolist(), kept["mtimes"].tolist()
        offsets, offset_start = kept["offsets"].tolist(), 0
        folders, start = [], 0
        every = zip(_split(kept["folders"]), kept["counts"].tolist(), _split(kept["shards"]), strict=True)
        for name, (image_count, other_count), shard in every:
            folder = Folder(
                parts=tuple(name.split("/")) if name else (),
                names=_take(images, image_count),
                sizes=sizes[start : start + image_count],
                mtimes=mtimes[start : start + image_count],
                others=_take(others, other_count),
                shard=shard,
                offsets=offsets[offset_start : offset_start + image_count] if shard else [],
            )
            folders.append(folder)
            start += image_count
            offset_start += len(folder.offsets)
        return Walk(path, folders, {}, directories)
    except Exception:  # zipfile and numpy raise many kinds on damage, and a listing can always be made anew
        return None


def _join(names: Iterable[str]) -> NDArray[np.uint8]:
    """Pack names, which hold no NUL and perhaps bytes that are not UTF-8, into one array."""
    return np.frombuffer("".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape"), np.uint8)


def _split(packed: NDArray[np.uint8]) -> list[str]:
    return packed.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]


def _take(names: Iterator[str], count: int) -> list[str]:
    taken = list(islice(names, count))
    if len(taken) < count:
        raise ValueError("a kept walk has fewer names than it says")
    return taken
