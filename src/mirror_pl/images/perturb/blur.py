"""Blur of lenses and of movement, and its contrary."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mirror_pl.images.perturb.operation import Operation
from mirror_pl.images.perturb.pixels import to_image


def _gaussian_blur(image: Image.Image, sigma: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma else image


def _chroma_blur(image: Image.Image, sigma: float, _: np.random.Generator) -> Image.Image:
    if not sigma:
        return image
    luminance, *colour = image.convert("YCbCr").split()
    blurred = [channel.filter(ImageFilter.GaussianBlur(sigma)) for channel in colour]
    return Image.merge("YCbCr", (luminance, *blurred)).convert("RGB")


def _lens_blur(image: Image.Image, radius: float, _: np.random.Generator) -> Image.Image:
    """Mean over the pixels whose centres lie in a disk."""
    reach = int(radius)
    if reach == 0:
        return image
    half_widths = [math.isqrt(int(radius * radius - dy * dy)) for dy in range(-reach, reach + 1)]
    count = sum(2 * half + 1 for half in half_widths)
    # One more on the left, for sums up to a pixel. They may run over; a difference of two is right all the same.
    running: NDArray[Any] = np.cumsum(_padded(image, count, reach, 1), axis=1, dtype=_integers(count))
    width, height = image.size
    total = np.zeros((height, width, 3), running.dtype)
    for half in set(half_widths):
        start = reach - half
        chords = running[:, start + 2 * half + 1 : start + 2 * half + 1 + width] - running[:, start : start + width]
        for row, own in enumerate(half_widths):
            if own == half:
                total += chords[row : row + height]
    return _mean(total, count)


def _motion_blur(image: Image.Image, length: float, generator: np.random.Generator) -> Image.Image:
    """Mean over the pixels nearest to points on a line, a pixel's width apart, of which one is the pixel itself."""
    angle = generator.uniform(0, math.pi)
    count = int(length)
    if count == 1:
        return image
    width, height = image.size
    padded = _padded(image, count, count)
    total = np.zeros((height, width, 3), padded.dtype)
    for along in range(-(count // 2), count - count // 2):
        x, y = (count + round(along * part) for part in (math.cos(angle), math.sin(angle)))
        total += padded[y : y + height, x : x + width]
    return _mean(total, count)


def _sharpen(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    """Add what the weights 1 2 1, across and down, take away."""
    if not amount:
        return image
    padded = _padded(image, 16, 1)
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    blurred = across[:-2] + 2 * across[1:-1] + across[2:]  # 16 times the mean
    pixels = np.asarray(image, np.float32)
    return to_image(pixels + np.float32(amount) * (pixels - blurred * np.float32(1 / 16)))


def _integers(count: int) -> type[np.uint16] | type[np.uint32]:
    """Return the narrowest integers that hold a sum of `count` values, to be rounded: narrow ones are quicker."""
    return np.uint16 if 255 * count + count // 2 < 2**16 else np.uint32


def _padded(image: Image.Image, count: int, reach: int, extra: int = 0) -> NDArray[Any]:
    """Return the pixels for sums of `count` of them; beyond the edge stand its own."""
    return np.pad(np.asarray(image), ((reach, reach), (reach + extra, reach), (0, 0)), "edge").astype(_integers(count))


def _mean(total: NDArray[Any], count: int) -> Image.Image:
    """Divide, halves up."""
    total += count // 2
    total //= count
    return Image.fromarray(total.astype(np.uint8))


BLUR: Final = {
    "gaussian_blur": Operation(_gaussian_blur, 0, 100, "standard deviation in px"),
    "lens_blur": Operation(_lens_blur, 0, 100, "radius of the disk in px"),
    "motion_blur": Operation(_motion_blur, 1, 256, "length in px", whole=True),
    "chroma_blur": Operation(_chroma_blur, 0, 100, "standard deviation in px, of the blur of colour alone"),
    "sharpen": Operation(_sharpen, 0, 20, "how many times the fine detail is added"),
}
