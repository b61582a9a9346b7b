"""Which image it is, and in which state its file is: what may stand for the bytes without reading them."""

from __future__ import annotations

import hashlib
import os
import time

from mirror_pl.files import RACY_NS
from mirror_pl.sources import ImageSource


def identity(source: ImageSource, suffix: str) -> bytes | None:
    """Return 16 bytes that change with the image: its place, its suffix, and its file's size, inode and times of change.

    The time of the inode's last change cannot be set back, so a file rewritten with its old size and time is another one.
    Where a file system keeps no such time (FAT, some network ones), that one case goes unnoticed. The device's number is
    left out: those of network file systems change from one mount to the next.

    Args:
        source: Where the image's bytes are.
        suffix: Suffix of its name, with the dot; its letter case does not matter.

    Returns:
        None where the file has changed in the last two seconds, or cannot be looked at. Cost: one stat.
    """
    try:
        status = os.stat(source.path)  # noqa: PTH116 - pathlib takes twice as long
    except (OSError, ValueError):
        return None
    if max(status.st_mtime_ns, status.st_ctime_ns) > time.time_ns() - RACY_NS:
        return None
    place = (source.offset, source.size, suffix.lower())
    state = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    path = os.path.abspath(source.path)  # noqa: PTH100 - links need not be resolved: the inode is that of their target
    return hashlib.blake2b(f"{path}\0{place}{state}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
