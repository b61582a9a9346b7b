"""Geometry: size, section, position."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.perturb.operation import Operation
from mirror_pl.images.perturb.pixels import to_image

PATCH_PX: Final = 16
"""Side of a patch that is copied, and how far."""


def _resize(image: Image.Image, scale: float, generator: np.random.Generator) -> Image.Image:
    """Down and up again, bicubic."""
    small = _downscale(image, scale, generator)
    return image if small is image else small.resize(image.size, Image.Resampling.BICUBIC)


def _downscale(image: Image.Image, scale: float, _: np.random.Generator) -> Image.Image:
    small = _share(image, scale)
    return image if small == image.size else image.resize(small, Image.Resampling.BICUBIC)


def _long_side(image: Image.Image, px: float, generator: np.random.Generator) -> Image.Image:
    return image if max(image.size) <= px else _downscale(image, px / max(image.size), generator)


def _pixelate(image: Image.Image, block: float, _: np.random.Generator) -> Image.Image:
    """Means of blocks, as long as a whole number of them needs; a pixel belongs to the block that its centre is in."""
    small = _share(image, 1 / block)
    if small == image.size:
        return image
    across, down = (
        ((2 * np.arange(side) + 1) * count - 1) // (2 * side) for side, count in zip(image.size, small, strict=True)
    )
    sums = np.add.reduceat(np.asarray(image, np.uint32), np.flatnonzero(np.diff(down, prepend=-1)), 0)
    sums = np.add.reduceat(sums, np.flatnonzero(np.diff(across, prepend=-1)), 1)
    counts = (np.bincount(down)[:, None] * np.bincount(across))[..., None]
    means = ((sums + counts // 2) // counts).astype(np.uint8)
    return Image.fromarray(means[down][:, across])


def _center_crop(image: Image.Image, share: float, _: np.random.Generator) -> Image.Image:
    return _cropped(image, share, 0.5, 0.5)


def _random_crop(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    return _cropped(image, share, *generator.random(2).tolist())


def _cropped(image: Image.Image, share: float, across: float, down: float) -> Image.Image:
    """Cut a section whose place is given in [0, 1)."""
    width, height = _share(image, share)
    left, top = int(across * (image.width - width + 1)), int(down * (image.height - height + 1))
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def _rotate(image: Image.Image, degrees: float, generator: np.random.Generator) -> Image.Image:
    """To the left or right, which is drawn; what comes from outside is black."""
    sign = 1 if generator.random() < 0.5 else -1
    return image.rotate(sign * degrees, Image.Resampling.BILINEAR) if degrees else image


def _perspective(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Stretch to the picture's size what lies between four points near its corners, which are drawn; none is outside."""
    drawn = share * generator.random((4, 2))
    if not share:
        return image
    corners = np.abs(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) - drawn) * image.size
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners.tolist()
    # From the square to the four points; in so many words, since a solver's last digits differ by machine.
    ax, ay, bx, by = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    whole = ax * by - bx * ay
    g, h = (sx * by - bx * sy) / whole, (ax * sy - sx * ay) / whole
    rows = ((x1 - x0 + g * x1, x3 - x0 + h * x3, x0), (y1 - y0 + g * y1, y3 - y0 + h * y3, y0), (g, h))
    width, height = image.size
    data = [value / side for row in rows for value, side in zip(row, (width, height, 1), strict=False)]
    return image.transform(image.size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)


def _jitter(image: Image.Image, std: float, generator: np.random.Generator) -> Image.Image:
    """Take each pixel from a place near by; between pixels bilinear, beyond the edge its own."""
    if not std:
        return image
    shape = image.height, image.width
    moved = np.float32(std) * generator.standard_normal((2, *shape), np.float32)
    moved[0] += np.arange(shape[0], dtype=np.float32)[:, None]
    moved[1] += np.arange(shape[1], dtype=np.float32)
    (y0, y1, down), (x0, x1, across) = (_neighbours(places, side) for places, side in zip(moved, shape, strict=True))
    corners = [y * shape[1] + x for y in (y0, y1) for x in (x0, x1)]
    found = np.empty((*shape, 3), np.float32)
    for channel, plane in enumerate(image.split()):
        top_left, top_right, low_left, low_right = (
            np.asarray(plane).ravel().take(places).astype(np.float32) for places in corners
        )
        top, low = top_left + across * (top_right - top_left), low_left + across * (low_right - low_left)
        found[..., channel] = top + down * (low - top)
    return to_image(found)


def _neighbours(places: NDArray[np.float32], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the pixels before and after each place, and the weight of the latter; all ``(H, W)``."""
    np.clip(places, 0, side - 1, places)
    before = places.astype(np.int64)
    return before, np.minimum(before + 1, side - 1), places - before.astype(np.float32)


def _channel_shift(image: Image.Image, px: float, generator: np.random.Generator) -> Image.Image:
    """Move green against the others, in a direction that is drawn; beyond the edge stand its own pixels."""
    angle = generator.uniform(0, 2 * math.pi)
    x, y = round(px * math.cos(angle)), round(px * math.sin(angle))
    if not x and not y:
        return image
    pixels = np.array(image)
    rows = np.clip(np.arange(image.height) - y, 0, image.height - 1)
    columns = np.clip(np.arange(image.width) - x, 0, image.width - 1)
    pixels[..., 1] = pixels[rows[:, None], columns, 1]
    return Image.fromarray(pixels)


def _patches(image: Image.Image, count: float, generator: np.random.Generator) -> Image.Image:
    """Copy squares, one after the other, to a place near by."""
    if not count:
        return image
    pixels = np.array(image)
    side = min(PATCH_PX, *image.size)
    room = np.array(pixels.shape[:2]) - side
    for start_y, start_x, by_y, by_x in generator.random((int(count), 4)):
        start = np.array([start_y, start_x]) * room
        y, x = np.rint(start).astype(int)
        to_y, to_x = np.rint(np.clip(start + PATCH_PX * (np.array([by_y, by_x]) - 0.5), 0, room)).astype(int)
        pixels[to_y : to_y + side, to_x : to_x + side] = pixels[y : y + side, x : x + side].copy()
    return Image.fromarray(pixels)


def _share(image: Image.Image, share: float) -> tuple[int, int]:
    """Return a share of each side, in whole px and at least 1."""
    return max(1, round(image.width * share)), max(1, round(image.height * share))


GEOMETRY: Final = {
    "resize": Operation(_resize, 0.01, 1, "share of each side that is left before it is brought back to its size"),
    "downscale": Operation(_downscale, 0.01, 1, "share of each side that is left"),
    "long_side": Operation(_long_side, 1, 65535, "px that the longer side has at most", whole=True),
    "pixelate": Operation(_pixelate, 1, 512, "side of a block in px"),
    "center_crop": Operation(_center_crop, 0.01, 1, "share of each side that is left"),
    "random_crop": Operation(_random_crop, 0.01, 1, "share of each side that is left"),
    "rotate": Operation(_rotate, 0, 180, "degrees"),
    "perspective": Operation(_perspective, 0, 0.4, "share of the sides by which corners move at most"),
    "jitter": Operation(_jitter, 0, 100, "standard deviation in px of where a pixel is taken from"),
    "channel_shift": Operation(_channel_shift, 0, 100, "px by which green is moved"),
    "patches": Operation(_patches, 0, 1000, "number of patches", whole=True),
}
