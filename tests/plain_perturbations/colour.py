"""Light and colour, value by value."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from plain_perturbations.statement import FLOAT32, Plain, Statement

Pixels = NDArray[np.uint8]
LUMINANCE = np.array([0.299, 0.587, 0.114])
HALVES: dict[str, Any] = {
    "off": 1,
    "share": 0.002,
    "reason": "Pillow's matrix is in float32 and rounds halves up",
}


def by_value(change: Callable[[int, float], float]) -> Plain:
    """The same for all values."""
    return lambda pixels, level, _: np.array([change(value, level) for value in pixels.ravel().tolist()]).reshape(
        pixels.shape
    )


def contrast(pixels: Pixels, factor: float, _: np.random.Generator) -> NDArray[Any]:
    grey = [(19595 * r + 38470 * g + 7471 * b + 32768) >> 16 for r, g, b in pixels.reshape(-1, 3).tolist()]
    mean = sum(grey) / len(grey)
    return mean + factor * (pixels - mean)


def tone_curve(value: int, amount: float) -> float:
    """The parabola through (0, 0), (1/2, (1 + amount) / 2) and (1, 1)."""
    return 255 * float(np.polyval(np.polyfit([0, 0.5, 1], [0, (1 + amount) / 2, 1], 2), value / 255))


def saturation(pixels: Pixels, factor: float, _: np.random.Generator) -> NDArray[Any]:
    grey = (pixels @ LUMINANCE)[..., None]
    return grey + factor * (pixels - grey)


def hue(pixels: Pixels, degrees: float, _: np.random.Generator) -> NDArray[Any]:
    """As a complex number, the colour is multiplied by a rotation."""
    y = pixels @ LUMINANCE
    colour = (pixels[..., 2] - y) / 1.772 + 1j * (pixels[..., 0] - y) / 1.402
    turned = colour * np.exp(1j * math.radians(degrees))
    red, blue = y + 1.402 * turned.imag, y + 1.772 * turned.real
    return np.stack([red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue], -1)


def colour_cast(pixels: Pixels, strength: float, generator: np.random.Generator) -> NDArray[Any]:
    drawn = [generator.uniform(-1, 1) for _ in range(3)]
    return pixels * np.array([1 + strength * (value - sum(drawn) / 3) for value in drawn])


def clahe(pixels: Pixels, limit: float, _: np.random.Generator) -> NDArray[Any]:
    grey = (pixels.astype(int) @ [299, 587, 114] + 500) // 1000
    down, across = (min(8, side) for side in grey.shape)
    edges = [
        [tile * side // count for tile in range(count + 1)] for side, count in zip(grey.shape, (down, across), strict=True)
    ]
    centres = [[(a + b - 1) / 2 for a, b in pairwise(own)] for own in edges]

    def table(y: int, x: int) -> list[float]:
        tile = grey[edges[0][y] : edges[0][y + 1], edges[1][x] : edges[1][x + 1]].ravel().tolist()
        counts = [tile.count(value) for value in range(256)]
        most = max(1, limit * len(tile) / 256)
        excess = sum(max(0, count - most) for count in counts)
        heights = [min(count, most) + excess / 256 for count in counts]
        return [255 * sum(heights[: value + 1]) / len(tile) for value in range(256)]

    tables = [[table(y, x) for x in range(across)] for y in range(down)]

    def weights(place: int, own: list[float]) -> list[tuple[int, float]]:
        """Tents between the centres, level outside of them."""
        return [(tile, float(np.interp(place, own, np.eye(len(own))[tile]))) for tile in range(len(own))]

    result = np.zeros(pixels.shape)
    rows = [weights(y, centres[0]) for y in range(grey.shape[0])]
    columns = [weights(x, centres[1]) for x in range(grey.shape[1])]
    for y, x in np.ndindex(*grey.shape):
        new = sum(wy * wx * tables[ty][tx][grey[y, x]] for ty, wy in rows[y] for tx, wx in columns[x] if wy * wx)
        result[y, x] = pixels[y, x] + (new - grey[y, x])
    return result


def posterize(pixels: Pixels, bits: float, _: np.random.Generator) -> NDArray[Any]:
    return np.array(ImageOps.posterize(Image.fromarray(pixels), int(bits)))


def quantize(value: int, count: float) -> float:
    steps = [255 * step / (count - 1) for step in range(int(count))]
    return min(steps, key=lambda step: abs(step - value))


COLOUR = {
    "brightness": Statement(by_value(lambda value, factor: factor * value), (0, 0.5, 1.2, 3), neutral=1),
    "contrast": Statement(contrast, (0, 0.6, 1.25), **FLOAT32, neutral=1),
    "saturation": Statement(saturation, (-0.4, 0, 0.5, 1.2, 9), **HALVES, neutral=1),
    "hue": Statement(hue, (-90, 20, 180), **HALVES, neutral=0),
    "colour_cast": Statement(colour_cast, (0.1, 0.6), neutral=0),
    "mean_shift": Statement(by_value(lambda value, amount: value + 255 * amount), (-0.15, 0.08), neutral=0),
    "tone_curve": Statement(by_value(tone_curve), (-0.8, 0.1, 1.1), **FLOAT32, neutral=0),
    "clahe": Statement(clahe, (1, 4), **FLOAT32),
    "posterize": Statement(posterize, (1, 4, 7), neutral=8),
    "quantize": Statement(by_value(quantize), (2, 7, 20), neutral=256),
}
