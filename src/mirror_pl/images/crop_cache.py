"""Which image it is, and in which state its file is: what may stand for the bytes without reading them."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from mirror_pl.files import RACY_NS
from mirror_pl.images.condition import AS_IT_IS, Condition
from mirror_pl.images.crop_segments import ENTRY, Segments, SegmentWriter, make_room
from mirror_pl.images.crops import crop_count
from mirror_pl.images.perturb import UNPERTURBED, VERSION
from mirror_pl.images.spec import PreprocessSpec
from mirror_pl.sources.source import ImageSource


def identity(source: ImageSource, suffix: str, image_id: str = "") -> bytes | None:
    """Return 16 bytes that change with the image: its place, its suffix, and its file's size, inode and times of change.

    The time of the inode's last change cannot be set back, so a file rewritten with its old size and time is another one.
    Where a file system keeps no such time (FAT, some network ones), that one case goes unnoticed. The device's number is
    left out: those of network file systems change from one mount to the next.

    Args:
        source: Where the image's bytes are.
        suffix: Suffix of its name, with the dot; its letter case does not matter.
        image_id: What names it where something random is done to it.

    Returns:
        None where the file has changed in the last two seconds, or cannot be looked at. Cost: one stat.
    """
    if not isinstance(source.path, Path):  # a URL, of which less is known
        return None
    try:
        status = os.stat(source.path)  # noqa: PTH116 - pathlib takes twice as long
    except (OSError, ValueError):
        return None
    if max(status.st_mtime_ns, status.st_ctime_ns) > time.time_ns() - RACY_NS:
        return None
    place = (source.offset, source.size, suffix.lower())
    state = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    path = os.path.abspath(source.path)  # noqa: PTH100 - links need not be resolved: the inode is that of their target
    named = f"\0{image_id}" if image_id else ""
    return hashlib.blake2b(f"{path}\0{place}{state}{named}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


FORMAT: Final = "1"
"""To be raised when `decode` or `preprocess` gives other pixels for the same file and recipe."""
SEGMENT_BYTES: Final = 2**26
"""Size of a full segment; less where the limit is low, so that many processes find room for one each."""

AFTER_THE_CROP: Final = ("mean", "std")
"""What a recipe does on the device: detectors that differ in nothing else share their crops."""


class CropCache:
    """The crops of one recipe.

    Each process writes segments of its own, so any number of runs may share a folder, and any may be killed. What is stored
    is found by the caches made afterwards, not by this one. May be forked and pickled; not for several threads.

    Args:
        folder: Holds a folder for each recipe; made where it does not exist.
        spec: The recipe.
        crops: Which crops of an image; see `plan_crops`.
        conditions: Under which an image is scored; what is stored are its crops under all of them.
        limit_bytes: For all recipes in `folder` together. When it is reached, what no run has used for a day makes way; if
            nothing is that old, nothing more is stored.
    """

    def __init__(
        self,
        folder: Path,
        spec: PreprocessSpec,
        limit_bytes: int,
        crops: str = "center",
        conditions: Sequence[Condition] = (AS_IT_IS,),
    ) -> None:
        self.folder = folder / f"crops-{_recipe_digest(spec, crops, conditions)}"
        square = (spec.crop_px, spec.crop_px, 3)
        self.shape = square if crops == "center" else (crop_count(crops), *square)
        if len(conditions) > 1:
            self.shape = (len(conditions), *self.shape)
        self.limit_bytes = limit_bytes
        self._stopped = False
        self._start()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._stop(f"cannot be written: {error.strerror}")

    def _start(self) -> None:
        self._segments = Segments(self.folder, self.shape)
        self._writer: SegmentWriter | None = None
        self._warned = mmap.mmap(-1, 1)  # one byte shared with forked workers, for one warning from all of them

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "shape", "limit_bytes", "_stopped")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def find(self, key: bytes) -> NDArray[np.uint8] | None:
        """Return the crop of an image by its `identity`, uint8 of the cache's `shape`; None where there is none."""
        return self._segments.find(key)

    def store(self, key: bytes, crop: NDArray[np.uint8]) -> None:
        """Keep a crop. Where that is impossible, one warning says so, and this cache stores no more.

        Args:
            key: The image's `identity`, taken before it was decoded and found the same afterwards.
            crop: As `find` returns it.
        """
        if crop.shape != self.shape or crop.dtype != np.uint8:
            raise ValueError(f"a crop of this recipe is uint8 {self.shape}, got {crop.dtype} {crop.shape}")
        if self._stopped:
            return
        try:
            writer = self._open_writer()
            if writer is not None:
                writer.append(key, crop)
        except OSError as error:
            if self._writer is not None:
                self._writer.remove()  # its room is needed by others
                self._writer = None
            self._stop(f"cannot be written: {error.strerror or error}")

    def _open_writer(self) -> SegmentWriter | None:
        """Return a segment of this process that is not full; None once the limit is reached."""
        record_bytes = int(np.prod(self.shape)) + ENTRY.itemsize
        most = max(1, min(SEGMENT_BYTES, self.limit_bytes // 512) // record_bytes)
        if self._writer is None or self._writer.pid != os.getpid() or self._writer.length >= most:
            self._writer = None  # a full one, or that of the process this one was forked from: not to be removed
            self._writer = SegmentWriter(self.folder)
            if not make_room(self.folder.parent, self.limit_bytes, most * record_bytes):
                self._writer.remove()
                self._writer = None
                self._stop("is full, or its disk nearly is: raise cache_limit_gb, or delete what is no longer needed")
        return self._writer

    def _stop(self, reason: str) -> None:
        self._stopped = True
        if not self._warned[0]:
            self._warned[0] = 1
            warnings.warn(f"cache_dir: {self.folder.parent} {reason}; the run goes on without storing more", stacklevel=3)


def _recipe_digest(spec: PreprocessSpec, crops: str, conditions: Sequence[Condition]) -> str:
    """Return what changes with anything that changes a crop: recipe, which crops, conditions, and the libraries at work."""
    recipes = [
        {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in AFTER_THE_CROP}
        for spec in (condition.recipe(spec) for condition in conditions)
    ]
    libraries = [PIL.__version__, *(features.version(name) for name in ("jpg", "libjpeg_turbo", "webp"))]
    more: list[object] = [] if crops == "center" else [crops]
    perturbations = [condition.perturbation for condition in conditions]
    if perturbations != [UNPERTURBED]:
        codecs = [features.version(name) for name in ("avif", "jpg_2000")]
        more += [VERSION, np.__version__, codecs, [(each.steps, each.seed) for each in perturbations]]
    recipe = recipes[0] if len(recipes) == 1 else recipes
    return hashlib.sha256(repr((FORMAT, libraries, recipe, *more)).encode()).hexdigest()[:16]
