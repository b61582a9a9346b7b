"""Noise: of sensors, of transmission."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.perturb.operation import Operation
from mirror_pl.images.perturb.pixels import COLOUR_DIFFERENCES, luminance, to_image


def _gaussian_noise(image: Image.Image, std: float, generator: np.random.Generator) -> Image.Image:
    if not std:
        return image
    pixels = np.asarray(image, np.float32)
    return to_image(pixels + np.float32(255 * std) * generator.standard_normal(pixels.shape, np.float32))


def _multiplicative_noise(image: Image.Image, std: float, generator: np.random.Generator) -> Image.Image:
    if not std:
        return image
    pixels = np.asarray(image, np.float32)
    return to_image(pixels + np.float32(std) * pixels * generator.standard_normal(pixels.shape, np.float32))


def _impulse_noise(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Half of the pixels that are hit become black, half white; those hit at a low level are also hit at a higher one."""
    if not share:
        return image
    drawn = generator.random((image.height, image.width), np.float32)
    pixels = np.array(image)
    pixels[drawn < share / 2] = 0
    pixels[drawn >= 1 - share / 2] = 255
    return Image.fromarray(pixels)


def _colour_noise(image: Image.Image, std: float, generator: np.random.Generator) -> Image.Image:
    """Noise of the same strength in Y, Cb and Cr."""
    if not std:
        return image
    noise = np.float32(255 * std) * generator.standard_normal((3, image.height, image.width), np.float32)
    return _with_offsets(np.asarray(image, np.float32), noise)


def _iso_noise(image: Image.Image, std: float, generator: np.random.Generator) -> Image.Image:
    """Shot noise in the luminance, whose variance grows with it, and half as strong noise in the colours."""
    if not std:
        return image
    pixels = np.asarray(image, np.float32)
    noise = np.float32(255 * std) * generator.standard_normal((3, image.height, image.width), np.float32)
    noise[0] *= np.sqrt(luminance(pixels) / np.float32(255))
    noise[1:] /= 2
    return _with_offsets(pixels, noise)


def _with_offsets(pixels: NDArray[np.float32], offsets: NDArray[np.float32]) -> Image.Image:
    """Add offsets ``(3, H, W)`` in Y, Cb and Cr."""
    changed = np.empty_like(pixels)
    for channel, (of_cb, of_cr) in enumerate(COLOUR_DIFFERENCES):
        changed[..., channel] = pixels[..., channel] + offsets[0]
        changed[..., channel] += np.float32(of_cb) * offsets[1] + np.float32(of_cr) * offsets[2]
    return to_image(changed)


NOISE: Final = {
    "gaussian_noise": Operation(_gaussian_noise, 0, 1, "standard deviation, as a share of full scale"),
    "impulse_noise": Operation(_impulse_noise, 0, 1, "share of the pixels that become black or white"),
    "iso_noise": Operation(_iso_noise, 0, 1, "standard deviation of the luminance of white, as a share of full scale"),
    "multiplicative_noise": Operation(_multiplicative_noise, 0, 1, "standard deviation, as a share of each value"),
    "colour_noise": Operation(_colour_noise, 0, 1, "standard deviation in Y, Cb and Cr, as a share of full scale"),
}
