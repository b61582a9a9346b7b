"""Copies on disk, as anybody makes them with Pillow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plain_perturbations.statement import Plain, Statement


def copy_on_disk(suffix: str, setting: str, **options: Any) -> Plain:
    def plain(pixels: NDArray[np.uint8], level: float, _: np.random.Generator) -> NDArray[np.uint8]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"copy{suffix}"
            value = [level] if setting == "quality_layers" else level
            Image.fromarray(pixels).save(path, **{setting: value}, **options)
            return np.array(Image.open(path).convert("RGB"))

    return plain


def jpeg2000(pixels: NDArray[np.uint8], ratio: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    resolutions = next(count for count in (6, 5, 4, 3, 2, 1) if min(pixels.shape[:2]) >= 2 ** (count - 1))
    save = copy_on_disk(".jp2", "quality_layers", quality_mode="rates", irreversible=True, num_resolutions=resolutions)
    return save(pixels, ratio, generator)


CODECS = {
    "jpeg": Statement(copy_on_disk(".jpg", "quality"), (4, 50, 95)),
    "webp": Statement(copy_on_disk(".webp", "quality"), (30, 75)),
    "avif": Statement(copy_on_disk(".avif", "quality", speed=8), (30, 50)),
    "jpeg2000": Statement(jpeg2000, (4, 16, 45)),
}
