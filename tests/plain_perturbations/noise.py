"""Noise by its formula, in float64; the draws are those of the generator, in the order that the formula names them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plain_perturbations.statement import FLOAT32, Statement

Pixels = NDArray[np.uint8]


def normal(generator: np.random.Generator, *shape: int) -> NDArray[Any]:
    return generator.standard_normal(shape, np.float32).astype(float)


def with_ycbcr(pixels: Pixels, y: NDArray[Any], cb: NDArray[Any], cr: NDArray[Any]) -> NDArray[Any]:
    red, green, blue = np.moveaxis(pixels.astype(float), -1, 0)
    return np.stack([red + y + 1.402 * cr, green + y - 0.344136 * cb - 0.714136 * cr, blue + y + 1.772 * cb], -1)


def impulse_noise(pixels: Pixels, share: float, generator: np.random.Generator) -> NDArray[Any]:
    drawn = generator.random(pixels.shape[:2], np.float32)
    result = pixels.copy()
    for y, x in np.ndindex(*drawn.shape):
        if drawn[y, x] < share / 2:
            result[y, x] = 0
        elif drawn[y, x] >= 1 - share / 2:
            result[y, x] = 255
    return result


def colour_noise(pixels: Pixels, std: float, generator: np.random.Generator) -> NDArray[Any]:
    return with_ycbcr(pixels, *(255 * std * normal(generator, 3, *pixels.shape[:2])))


def iso_noise(pixels: Pixels, std: float, generator: np.random.Generator) -> NDArray[Any]:
    y = pixels @ np.array([0.299, 0.587, 0.114])
    n1, n2, n3 = normal(generator, 3, *pixels.shape[:2])
    return with_ycbcr(pixels, 255 * std * np.sqrt(y / 255) * n1, 255 * std / 2 * n2, 255 * std / 2 * n3)


NOISE = {
    "gaussian_noise": Statement(
        lambda pixels, std, generator: pixels + 255 * std * normal(generator, *pixels.shape),
        (0.02, 0.1),
        **FLOAT32,
        neutral=0,
    ),
    "multiplicative_noise": Statement(
        lambda pixels, std, generator: pixels * (1 + std * normal(generator, *pixels.shape)),
        (0.03, 0.2),
        **FLOAT32,
        neutral=0,
    ),
    "impulse_noise": Statement(impulse_noise, (0.01, 0.3, 1), neutral=0),
    "colour_noise": Statement(colour_noise, (0.01, 0.05), **FLOAT32, neutral=0),
    "iso_noise": Statement(iso_noise, (0.02, 0.1), **FLOAT32, neutral=0),
}
