"""Noise: of sensors, of transmission."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from mirror_pl.images.perturb.operation import Operation


def _gaussian_noise(image: Image.Image, std: float, generator: np.random.Generator) -> Image.Image:
    if not std:
        return image
    pixels = np.asarray(image, np.float32)
    noise = generator.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.rint(np.clip(pixels + np.float32(255 * std) * noise, 0, 255)).astype(np.uint8))


NOISE: Final = {
    "gaussian_noise": Operation(_gaussian_noise, 0, 1, "standard deviation, as a share of full scale"),
}
