"""Geometry: size, section, position."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from mirror_pl.images.perturb.operation import Operation


def _resize(image: Image.Image, scale: float, _: np.random.Generator) -> Image.Image:
    """Down and up again, bicubic."""
    small = tuple(max(1, round(side * scale)) for side in image.size)
    if small == image.size:
        return image
    return image.resize((small[0], small[1]), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


GEOMETRY: Final = {
    "resize": Operation(_resize, 0.01, 1, "share of each side that is left before it is brought back to its size"),
}
