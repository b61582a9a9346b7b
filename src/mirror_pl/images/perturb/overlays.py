"""What is put on a picture, or around it."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from PIL import Image

from mirror_pl.images.perturb.operation import Operation
from mirror_pl.images.perturb.pixels import curved

BLOCK_PX: Final = 32
"""Side of a block of one colour."""

BAR: Final = (24, 24, 24)
"""Colour of the bars of a screen."""

_WORD: Final = ("### ### ### # #", "#   # # # # # #", "#   # # ### ###", "#   # # #    # ", "### ### #    # ")


def _watermark(image: Image.Image, opacity: float, generator: np.random.Generator) -> Image.Image:
    """White letters over the whole picture, in rows; where the first of them begins is drawn."""
    drawn = generator.random(2)
    if not opacity:
        return image
    word = np.array([[cell == "#" for cell in row] for row in _WORD])
    tile = np.pad(word, ((0, 5), (0, 6)))
    unit = max(1, min(image.size) // 64)
    rows, columns = (
        (np.arange(side) // unit + int(start * cells)) % cells
        for side, start, cells in zip((image.height, image.width), drawn, tile.shape, strict=True)
    )
    mask = Image.fromarray(np.uint8(255) * tile[rows[:, None], columns])
    values = np.arange(256.0)
    return Image.composite(curved(image, values + opacity * (255 - values)), image, mask)


def _sticker(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """A part of one colour with a white border, in the picture's proportions; place and colour are drawn."""
    across, down, *colour = generator.random(5).tolist()
    width, height = (round(side * math.sqrt(share)) for side in image.size)
    if not width or not height:
        return image
    border = max(1, min(width, height) // 16)
    left, top = int(across * (image.width - width + 1)), int(down * (image.height - height + 1))
    covered = image.copy()
    covered.paste("white", (left, top, left + width, top + height))
    if width > 2 * border and height > 2 * border:
        inside = (left + border, top + border, left + width - border, top + height - border)
        covered.paste(_colour(colour), inside)
    return covered


def _screenshot(image: Image.Image, px: float, _: np.random.Generator) -> Image.Image:
    """The picture as it is shown, bilinear, with a bar above and one below, each 1/16 of its longer side."""
    scale = px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    bar = max(1, round(px / 16))
    screen = Image.new("RGB", (width, height + 2 * bar), BAR)
    screen.paste(image.resize((width, height), Image.Resampling.BILINEAR), (0, bar))
    return screen


def _color_blocks(image: Image.Image, count: float, generator: np.random.Generator) -> Image.Image:
    """Squares of one colour each; places and colours are drawn."""
    if not count:
        return image
    covered = image.copy()
    width, height = (min(BLOCK_PX, side) for side in image.size)
    for across, down, *colour in generator.random((int(count), 5)).tolist():
        left, top = int(across * (image.width - width + 1)), int(down * (image.height - height + 1))
        covered.paste(_colour(colour), (left, top, left + width, top + height))
    return covered


def _colour(drawn: list[float]) -> tuple[int, int, int]:
    red, green, blue = (int(256 * value) for value in drawn)
    return red, green, blue


OVERLAYS: Final = {
    "watermark": Operation(_watermark, 0, 1, "opacity"),
    "sticker": Operation(_sticker, 0, 1, "share of the picture's area"),
    "color_blocks": Operation(_color_blocks, 0, 1000, "number of blocks", whole=True),
    "screenshot": Operation(_screenshot, 16, 8192, "px of the longer side on the screen", whole=True, suffix=".png"),
}
