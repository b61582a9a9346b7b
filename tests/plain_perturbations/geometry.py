"""Geometry: Pillow on files, slices, and SciPy's interpolation at places that are worked out anew."""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from plain_perturbations.statement import FLOAT32, Statement

Pixels = NDArray[np.uint8]
BILINEAR: dict[str, Any] = {
    "off": 1,
    "share": 0.002,
    "reason": "Pillow interpolates down the columns first, and cuts fractions off in float32",
}


def resized(pixels: Pixels, *sizes: tuple[int, int]) -> Pixels:
    """Copies on disk, each made from the one before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.png"
        Image.fromarray(pixels).save(path)
        for size in sizes:
            Image.open(path).resize(size, Image.Resampling.BICUBIC).save(path)
        return np.array(Image.open(path))


def share_of(pixels: Pixels, share: float) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    return max(1, round(width * share)), max(1, round(height * share))


def long_side(pixels: Pixels, px: float, _: np.random.Generator) -> NDArray[Any]:
    longer = max(pixels.shape)
    return pixels if longer <= px else resized(pixels, share_of(pixels, px / longer))


def pixelate(pixels: Pixels, block: float, _: np.random.Generator) -> NDArray[Any]:
    """Exact means of the pixels whose centres lie in a block, one on a border in the one before; halves up."""
    columns, rows = (
        [math.ceil(Fraction(2 * x + 1, 2) * count / side) - 1 for x in range(side)]
        for side, count in zip(pixels.shape[1::-1], share_of(pixels, 1 / block), strict=True)
    )
    result = pixels.copy()
    for number, other in np.ndindex(rows[-1] + 1, columns[-1] + 1):
        inside = np.ix_(np.equal(rows, number), np.equal(columns, other))
        for channel in range(3):
            values = pixels[..., channel][inside].ravel().tolist()
            result[..., channel][inside] = math.floor(Fraction(sum(values), len(values)) + Fraction(1, 2))
    return result


def crop(pixels: Pixels, share: float, across: float, down: float) -> NDArray[Any]:
    width, height = share_of(pixels, share)
    top, left = math.floor(down * (len(pixels) - height + 1)), math.floor(across * (len(pixels[0]) - width + 1))
    return pixels[top : top + height, left : left + width]


def sampled(pixels: Pixels, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Bilinear at places in px from the upper left corner; black outside."""
    outside = (x < 0) | (y < 0) | (x >= pixels.shape[1]) | (y >= pixels.shape[0])
    values = [
        ndimage.map_coordinates(pixels[..., channel].astype(float), [y - 0.5, x - 0.5], order=1, mode="nearest")
        for channel in range(3)
    ]
    return np.where(outside[..., None], 0, np.stack(values, -1))


def centres(pixels: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    y, x = np.indices(pixels.shape[:2]) + 0.5
    return x, y


def rotate(pixels: Pixels, degrees: float, generator: np.random.Generator) -> NDArray[Any]:
    angle = math.radians(degrees if generator.random() < 0.5 else -degrees)
    middle = complex(pixels.shape[1], pixels.shape[0]) / 2
    x, y = centres(pixels)
    places = (x + 1j * y - middle) * np.exp(1j * angle) + middle  # y runs downwards
    return np.floor(sampled(pixels, places.real, places.imag) + 1e-9)


def perspective(pixels: Pixels, share: float, generator: np.random.Generator) -> NDArray[Any]:
    """Eight equations, solved: each corner of the result comes from its point."""
    height, width = pixels.shape[:2]
    equations, values = [], []
    for corner_x, corner_y in ((0, 0), (1, 0), (1, 1), (0, 1)):
        moved_x, moved_y = (share * generator.random() for _ in range(2))
        x, y = corner_x * width, corner_y * height
        from_x = width * (corner_x + (moved_x if corner_x == 0 else -moved_x))
        from_y = height * (corner_y + (moved_y if corner_y == 0 else -moved_y))
        equations += [[x, y, 1, 0, 0, 0, -from_x * x, -from_x * y], [0, 0, 0, x, y, 1, -from_y * x, -from_y * y]]
        values += [from_x, from_y]
    a, b, c, d, e, f, g, h = np.linalg.solve(equations, values)
    x, y = centres(pixels)
    scale = g * x + h * y + 1
    return np.floor(sampled(pixels, (a * x + b * y + c) / scale, (d * x + e * y + f) / scale) + 1e-9)


def jitter(pixels: Pixels, std: float, generator: np.random.Generator) -> NDArray[Any]:
    by_y, by_x = std * generator.standard_normal((2, *pixels.shape[:2]), np.float32).astype(float)
    x, y = centres(pixels)
    return sampled(pixels, np.clip(x + by_x, 0, pixels.shape[1] - 0.5), np.clip(y + by_y, 0, pixels.shape[0] - 0.5))


def channel_shift(pixels: Pixels, px: float, generator: np.random.Generator) -> NDArray[Any]:
    angle = generator.uniform(0, 2 * math.pi)
    by = round(px * math.sin(angle)), round(px * math.cos(angle))
    result = pixels.copy()
    result[..., 1] = ndimage.shift(pixels[..., 1], by, order=0, mode="nearest")
    return result


def patches(pixels: Pixels, count: float, generator: np.random.Generator) -> NDArray[Any]:
    result = pixels.copy()
    side = min(16, pixels.shape[0], pixels.shape[1])
    last_y, last_x = pixels.shape[0] - side, pixels.shape[1] - side
    for _ in range(int(count)):
        y, x = generator.random() * last_y, generator.random() * last_x
        to_y = round(min(max(y + 16 * (generator.random() - 0.5), 0), last_y))
        to_x = round(min(max(x + 16 * (generator.random() - 0.5), 0), last_x))
        before = result.copy()
        for i, j in np.ndindex(side, side):
            result[to_y + i, to_x + j] = before[round(y) + i, round(x) + j]
    return result


GEOMETRY = {
    "resize": Statement(
        lambda pixels, share, _: resized(pixels, share_of(pixels, share), pixels.shape[1::-1]), (0.25, 0.5, 0.9), neutral=1
    ),
    "downscale": Statement(lambda pixels, share, _: resized(pixels, share_of(pixels, share)), (0.25, 0.7), neutral=1),
    "long_side": Statement(long_side, (5, 30), neutral=1000),
    "pixelate": Statement(pixelate, (1.28, 2, 3.44, 8), neutral=1),
    "center_crop": Statement(lambda pixels, share, _: crop(pixels, share, 0.5, 0.5), (0.3, 0.8), neutral=1),
    "random_crop": Statement(
        lambda pixels, share, generator: crop(pixels, share, generator.random(), generator.random()), (0.3, 0.8), neutral=1
    ),
    "rotate": Statement(rotate, (5, 45, 90, 180), **BILINEAR, neutral=0),
    "perspective": Statement(perspective, (0.1, 0.4), **BILINEAR, neutral=0),
    "jitter": Statement(jitter, (0.1, 0.5, 3), **FLOAT32, neutral=0),
    "channel_shift": Statement(channel_shift, (1, 6), neutral=0),
    "patches": Statement(patches, (1, 30), neutral=0),
}
