"""How much room the crops of all recipes may take, and which of them make way for others."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror_pl.images.crop_segments import remove_segment

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
