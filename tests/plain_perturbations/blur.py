"""Blur as sums over neighbours, in SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from plain_perturbations.statement import FLOAT32, Statement

Pixels = NDArray[np.uint8]


def mean_over(pixels: Pixels, counts: NDArray[Any]) -> NDArray[Any]:
    """The mean with whole weights, in exact integers, halves up."""
    total = ndimage.correlate(pixels.astype(np.int64), counts[..., None].astype(np.int64), mode="nearest")
    return (2 * total + counts.sum()) // (2 * counts.sum())


def gaussian(channels: NDArray[Any], sigma: float) -> NDArray[Any]:
    return ndimage.gaussian_filter(channels.astype(float), (sigma, sigma, 0), mode="nearest", truncate=6)


def lens_blur(pixels: Pixels, radius: float, _: np.random.Generator) -> NDArray[Any]:
    reach = math.floor(radius)
    inside = [[x * x + y * y <= radius * radius for x in range(-reach, reach + 1)] for y in range(-reach, reach + 1)]
    return mean_over(pixels, np.array(inside))


def motion_blur(pixels: Pixels, length: float, generator: np.random.Generator) -> NDArray[Any]:
    angle = generator.uniform(0, math.pi)
    counts = np.zeros((2 * int(length) + 1, 2 * int(length) + 1))
    for place in np.arange(length) - length // 2:
        counts[int(length) + round(place * math.sin(angle)), int(length) + round(place * math.cos(angle))] += 1
    return mean_over(pixels, counts)


def chroma_blur(pixels: Pixels, sigma: float, _: np.random.Generator) -> NDArray[Any]:
    red, green, blue = np.moveaxis(pixels.astype(float), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = np.moveaxis(gaussian(np.stack([(blue - y) / 1.772, (red - y) / 1.402], -1), sigma), -1, 0)
    return np.stack([y + 1.402 * cr, y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587, y + 1.772 * cb], -1)


def sharpen(pixels: Pixels, amount: float, _: np.random.Generator) -> NDArray[Any]:
    weights = np.outer([1, 2, 1], [1, 2, 1])[..., None] / 16
    values = pixels.astype(float)
    return values + amount * (values - ndimage.convolve(values, weights, mode="nearest"))


BOXES = (
    "Pillow blurs three times by a box instead, and rounds each time; most at edges, where sigma is large for the picture"
)
BLUR = {
    "gaussian_blur": Statement(
        lambda pixels, sigma, _: gaussian(pixels, sigma), (0.5, 1, 2, 5), off=18, mean=0.9, reason=BOXES, neutral=0
    ),
    "lens_blur": Statement(lens_blur, (1, 2.5, 4, 8, 12), neutral=0),
    "motion_blur": Statement(motion_blur, (2, 5, 10), neutral=1),
    "chroma_blur": Statement(
        chroma_blur, (1, 3.5, 8), off=18, mean=2, reason=f"{BOXES}; Y, Cb and Cr are rounded too", neutral=0
    ),
    "sharpen": Statement(sharpen, (0.3, 1, 12), **FLOAT32, neutral=0),
}
