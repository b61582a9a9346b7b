"""OpenCV's decoding and resizing: against a slow statement of its arithmetic, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from mirror_pl.images.opencv import opencv_resize, opencv_rgb


def slowly(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The same in plain loops over scalars."""
    rows, columns = pixels.shape[:2]

    def place(index: int, source: int, target: int, along_x: bool) -> tuple[int, int, int, int]:
        f = np.float32((index + 0.5) * (source / target) - 0.5)
        s = math.floor(f)
        t = np.float32(f - np.float32(s))
        if along_x and s < 0:
            s, t = 0, np.float32(0)
        if along_x and s >= source - 1:
            s, t = source - 1, np.float32(0)
        one, zero = int(np.rint(t * np.float32(2048))), int(np.rint((np.float32(1) - t) * np.float32(2048)))
        return min(max(s, 0), source - 1), min(max(s + 1, 0), source - 1), zero, one

    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        y0, y1, b0, b1 = place(y, rows, height, along_x=False)
        for x in range(width):
            x0, x1, a0, a1 = place(x, columns, width, along_x=True)
            for c in range(3):
                h0 = a0 * int(pixels[y0, x0, c]) + a1 * int(pixels[y0, x1, c])
                h1 = a0 * int(pixels[y1, x0, c]) + a1 * int(pixels[y1, x1, c])
                out[y, x, c] = (((b0 * (h0 >> 4)) >> 16) + ((b1 * (h1 >> 4)) >> 16) + 2) >> 2
    return out


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (16, 16), (32, 32), (17, 40), (100, 5)])
def test_it_resizes_as_the_arithmetic_says(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    found = np.asarray(opencv_resize(Image.fromarray(pixels), (16, 12)))
    np.testing.assert_array_equal(found, slowly(pixels, 16, 12))


def test_half_the_size_is_the_mean_of_four() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    blocks = pixels.astype(int).reshape(224, 2, 224, 2, 3).sum(axis=(1, 3))
    np.testing.assert_array_equal(np.asarray(opencv_resize(Image.fromarray(pixels), (224, 224))), blocks + 2 >> 2)


def test_it_decodes_as_opencv(tmp_path: pytest.TempPathFactory) -> None:
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    assert np.asarray(opencv_rgb(Image.fromarray(deep)))[0, :, 0].tolist() == [0, 0, 1, 255]
    turned = Image.new("RGB", (2, 1))
    turned.putpixel((0, 0), (9, 8, 7))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif)
    with Image.open(path) as image:
        found = opencv_rgb(image)
    assert found.size == (1, 2)
    assert found.getpixel((0, 0)) == (9, 8, 7)
    clear = Image.new("RGBA", (1, 1), (1, 2, 3, 0))
    assert opencv_rgb(clear).getpixel((0, 0)) == (1, 2, 3)
    ink = Image.new("CMYK", (1, 1), (10, 20, 30, 40))
    c, m, y, k = (255 - value for value in (10, 20, 30, 40))
    assert opencv_rgb(ink).getpixel((0, 0)) == tuple(k - ((255 - value) * k >> 8) for value in (c, m, y))
