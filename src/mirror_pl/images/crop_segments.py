"""Crops on disk: pairs of files that only grow, each pair written by one process.

``X.crops`` holds crops of equal size one after the other, ``X.keys`` an `ENTRY` for each. A crop is written before its
entry: what a killed process leaves is a crop or a part of an entry too many at the end, which nothing points to. Whatever
else may have happened to the files, an entry's checksum over key and crop decides whether a crop is what it should be.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

ENTRY: Final = np.dtype([("head", "<u8"), ("tail", "<u8"), ("checksum", "<u4")])
"""A key in two halves, and the CRC-32 of key and crop."""

MAPPED_SEGMENTS: Final = 32
"""Segments a process keeps mapped; Python holds a file descriptor for each. Images come back in about the order they were
stored in, so a few suffice."""


class SegmentWriter:
    """A new segment, of this process alone.

    Args:
        folder: An existing folder.

    Raises:
        OSError: If it cannot be written; likewise from `append`, after which the segment is to be removed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{secrets.token_hex(8)}.crops"
        self.pid = os.getpid()
        self.length = 0
        self._crops = FileIO(self.path, "x")  # unbuffered: what a fork inherits must not be written twice
        self._keys = FileIO(_keys_of(self.path), "x")

    def __del__(self) -> None:
        for file in (getattr(self, "_crops", None), getattr(self, "_keys", None)):
            if file is not None:
                file.close()

    def append(self, key: bytes, crop: NDArray[np.uint8]) -> None:
        """Add one crop."""
        content = crop.tobytes()
        _write(self._crops, content)
        _write(self._keys, struct.pack("<16sI", key, _checksum(key, content)))
        self.length += 1

    def remove(self) -> None:
        """Take the segment back."""
        with suppress(OSError):
            remove_segment(self.path)


class Segments:
    """All segments of a folder as they are now; crops that are stored later are not seen.

    Takes 36 bytes of memory a crop.

    Args:
        folder: Folder of the segments; one that does not exist has none.
        shape: Shape of each crop.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._crop_bytes = int(np.prod(shape))
        self._paths = sorted(folder.glob("*.crops"))
        entries = [_read_entries(path) for path in self._paths]
        self._starts = np.cumsum([0, *map(len, entries)])
        every = np.concatenate([np.empty(0, ENTRY), *entries])
        self._order = np.argsort(every["head"], kind="stable")
        self._heads = every["head"][self._order]
        self._entries = every
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self._order)

    def find(self, key: bytes) -> NDArray[np.uint8] | None:
        """Return a copy of the crop stored under `key`; None where there is none, or it is damaged."""
        head, tail = struct.unpack("<QQ", key)
        place = int(np.searchsorted(self._heads, np.uint64(head)))
        while place < len(self._heads) and self._heads[place] == head:  # more than one, where several processes stored it
            number = int(self._order[place])
            if self._entries["tail"][number] == tail:
                crop = self._read(number)
                if crop is not None and _checksum(key, crop.data) == self._entries["checksum"][number]:
                    return crop
            place += 1
        return None

    def _read(self, number: int) -> NDArray[np.uint8] | None:
        segment = int(np.searchsorted(self._starts, number, side="right")) - 1
        begin = (number - int(self._starts[segment])) * self._crop_bytes
        try:
            mapped = self._maps[segment] if segment in self._maps else self._map(segment)
        except (OSError, ValueError):  # gone, or empty
            return None
        if len(mapped) < begin + self._crop_bytes:
            return None
        # Copied before it is checked, so that what was checked is what is used.
        return np.frombuffer(mapped, np.uint8, self._crop_bytes, begin).reshape(self.shape).copy()

    def _map(self, segment: int) -> mmap.mmap:
        path = self._paths[segment]
        with suppress(OSError):  # perhaps another user's; the time of access says when it was last used
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._maps) >= MAPPED_SEGMENTS:
            del self._maps[next(iter(self._maps))]
        self._maps[segment] = mapped
        return mapped


def remove_segment(path: Path) -> None:
    """Remove a segment by the path of its crops; who has it mapped keeps what is mapped.

    Raises:
        OSError: If that is not allowed.
    """
    _keys_of(path).unlink(missing_ok=True)  # first, so that what is left by a kill in between is still found by its crops
    path.unlink(missing_ok=True)


def _keys_of(path: Path) -> Path:
    return path.with_suffix(".keys")


def _read_entries(path: Path) -> NDArray[np.void]:
    try:
        content = _keys_of(path).read_bytes()
    except OSError:  # its process is between making the one file and the other, or was killed there
        content = b""
    return np.frombuffer(content, ENTRY, len(content) // ENTRY.itemsize)


def _checksum(key: bytes, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(key))


def _write(file: FileIO, content: bytes) -> None:
    if file.write(content) != len(content):
        raise OSError("only a part could be written")


UNUSED_S: Final = 24 * 3600
"""A segment makes way once no process has used it for this long. Were the least recently used one removed at once, a sweep
over more images than fit would remove each crop just before it is asked for again."""

GROWING_S: Final = 600
"""A segment written to this recently counts as full: its process may still go on."""

KEEP_FREE_BYTES: Final = 2**30
"""Left free on the disk, which the run's own results may have to go to."""


@dataclass(frozen=True)
class _Segment:
    path: Path
    used: float
    written: float
    size: int


def make_room(folder: Path, limit_bytes: int, segment_bytes: int) -> bool:
    """Remove long unused segments until the rest, the growing ones counted as full, is within the limit.

    To be called after a segment is made: of several processes that make one at the same time, each counts all.

    Args:
        folder: Folder of the recipes' folders.
        limit_bytes: For all segments together.
        segment_bytes: Size of a full one.

    Returns:
        Whether they are within it, and the disk is not nearly full.
    """
    if shutil.disk_usage(folder).free < KEEP_FREE_BYTES:
        return False
    now = time.time()
    segments = sorted(_segments(folder), key=lambda segment: segment.used)
    sizes = {s.path: max(s.size, segment_bytes) if s.written > now - GROWING_S else s.size for s in segments}
    total = sum(sizes.values())
    for segment in segments:
        if total <= limit_bytes or segment.used > now - UNUSED_S:
            break
        with suppress(OSError):
            remove_segment(segment.path)
            total -= sizes[segment.path]
    return total <= limit_bytes


def _segments(folder: Path) -> list[_Segment]:
    found = []
    for path in folder.glob("crops-*/*.crops"):
        with suppress(OSError):  # another process has removed it
            status, keys = path.stat(), path.with_suffix(".keys")
            size = status.st_size + (keys.stat().st_size if keys.exists() else 0)
            found.append(_Segment(path, max(status.st_atime, status.st_mtime), status.st_mtime, size))
    return found
