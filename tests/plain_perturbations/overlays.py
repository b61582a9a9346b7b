"""What is put on a picture, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plain_perturbations.statement import Statement

Pixels = NDArray[np.uint8]
LETTERS = {  # rectangles: left, top, right, bottom
    "C": [(0, 0, 3, 1), (0, 0, 1, 5), (0, 4, 3, 5)],
    "O": [(0, 0, 3, 1), (0, 0, 1, 5), (0, 4, 3, 5), (2, 0, 3, 5)],
    "P": [(0, 0, 3, 1), (0, 0, 1, 5), (0, 2, 3, 3), (2, 0, 3, 3)],
    "Y": [(0, 0, 1, 3), (2, 0, 3, 3), (0, 2, 3, 3), (1, 2, 2, 5)],
}


def watermark(pixels: Pixels, opacity: float, generator: np.random.Generator) -> NDArray[Any]:
    down, across = generator.random(), generator.random()
    unit = max(1, min(pixels.shape[:2]) // 64)
    cells = np.zeros((10, 21))
    for number, letter in enumerate("COPY"):
        for left, top, right, bottom in LETTERS[letter]:
            cells[top:bottom, 4 * number + left : 4 * number + right] = opacity
    result = pixels.astype(float)
    for y, x in np.ndindex(*pixels.shape[:2]):
        share = cells[(y // unit + int(10 * down)) % 10, (x // unit + int(21 * across)) % 21]
        result[y, x] += share * (255 - result[y, x])
    return result


def sticker(pixels: Pixels, share: float, generator: np.random.Generator) -> NDArray[Any]:
    across, down = generator.random(), generator.random()
    colour = [int(256 * generator.random()) for _ in range(3)]
    height, width = (round(side * share**0.5) for side in pixels.shape[:2])
    top, left = int(down * (pixels.shape[0] - height + 1)), int(across * (pixels.shape[1] - width + 1))
    border = max(1, min(width, height) // 16)
    result = pixels.copy()
    for y, x in np.ndindex(height, width):
        inside = border <= y < height - border and border <= x < width - border
        result[top + y, left + x] = colour if inside else 255
    return result


def color_blocks(pixels: Pixels, count: float, generator: np.random.Generator) -> NDArray[Any]:
    result = pixels.copy()
    for _ in range(int(count)):
        across, down = generator.random(), generator.random()
        colour = [int(256 * generator.random()) for _ in range(3)]
        top, left = (
            int(place * (side - min(32, side) + 1)) for place, side in zip((down, across), pixels.shape, strict=False)
        )
        result[top : top + 32, left : left + 32] = colour
    return result


def screenshot(pixels: Pixels, px: float, _: np.random.Generator) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    size = max(1, round(width * px / max(width, height))), max(1, round(height * px / max(width, height)))
    shown = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    bar = np.full((round(px / 16), size[0], 3), 24)
    return np.concatenate([bar, shown, bar])


OVERLAYS = {
    "watermark": Statement(watermark, (0.1, 0.6), neutral=0),
    "sticker": Statement(sticker, (0.05, 0.4), neutral=0),
    "color_blocks": Statement(color_blocks, (1, 5), neutral=0),
    "screenshot": Statement(screenshot, (32, 200)),
}
