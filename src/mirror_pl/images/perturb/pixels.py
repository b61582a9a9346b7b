"""Between images and arrays of pixels: how values are rounded, and what luminance and colour difference are."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LUMINANCE: Final = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luminance, as in JPEG (ITU-R BT.601)."""

COLOUR_DIFFERENCES: Final = ((0.0, 1.402), (-0.344136, -0.714136), (1.772, 0.0))
"""What Cb and Cr add to red, green and blue, as in JPEG."""


def to_image(pixels: NDArray[Any]) -> Image.Image:
    """Return ``(H, W, 3)`` values as an image, those out of [0, 255] at its ends, the others at the nearest whole number."""
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def luminance(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the luminance ``(H, W)`` of pixels ``(H, W, 3)``, in [0, 255]."""
    red, green, blue = (np.float32(share) for share in LUMINANCE)
    return pixels[..., 0] * red + pixels[..., 1] * green + pixels[..., 2] * blue


def curved(image: Image.Image, *curves: NDArray[Any]) -> Image.Image:
    """Return an image whose values were looked up: 256 values for all channels, or for each of the three."""
    values = np.rint(np.clip(curves, 0, 255)).astype(np.uint8)
    return image.point(np.broadcast_to(values, (3, 256)).ravel().tolist())
