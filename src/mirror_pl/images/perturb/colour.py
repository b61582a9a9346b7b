"""Light and colour: what cameras, filters and displays change of every pixel alike."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.perturb.clahe import clahe
from mirror_pl.images.perturb.operation import Operation
from mirror_pl.images.perturb.pixels import COLOUR_DIFFERENCES, LUMINANCE, curved

_VALUES: Final = np.arange(256.0)


def _brightness(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    return image if factor == 1 else curved(image, factor * _VALUES)


def _contrast(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    """Stretch the values around the picture's mean luminance."""
    if factor == 1:
        return image
    mean = float(np.asarray(image.convert("L")).mean())
    return curved(image, mean + factor * (_VALUES - mean))


def _mean_shift(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    return curved(image, _VALUES + 255 * amount) if amount else image


def _tone_curve(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    """Raise or lower the middle tones by half of the amount; black and white stay."""
    share = _VALUES / 255
    return curved(image, 255 * (share + 2 * amount * share * (1 - share))) if amount else image


def _posterize(image: Image.Image, bits: float, _: np.random.Generator) -> Image.Image:
    step = 2.0 ** (8 - bits)
    return image if bits == 8 else curved(image, np.floor(_VALUES / step) * step)


def _quantize(image: Image.Image, count: float, _: np.random.Generator) -> Image.Image:
    steps = count - 1
    return image if count == 256 else curved(image, np.rint(_VALUES * steps / 255) * (255 / steps))


def _colour_cast(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Multiply each channel by a factor of its own; their mean is 1."""
    drawn = generator.uniform(-1, 1, 3)
    factors = 1 + strength * (drawn - drawn.mean())
    return curved(image, *(factor * _VALUES for factor in factors)) if strength else image


def _saturation(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    return image if factor == 1 else _mixed(image, factor * np.eye(2))


def _hue(image: Image.Image, degrees: float, _: np.random.Generator) -> Image.Image:
    """Turn the plane of Cb and Cr; the luminance stays."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return _mixed(image, np.array([[cosine, -sine], [sine, cosine]])) if degrees else image


def _mixed(image: Image.Image, change: NDArray[Any]) -> Image.Image:
    """Return an image with other colour differences: a matrix times Cb and Cr."""
    of_luminance = np.array(LUMINANCE)
    to_differences = np.array([(np.eye(3)[2] - of_luminance) / 1.772, (np.eye(3)[0] - of_luminance) / 1.402])
    matrix = np.ones((3, 1)) * of_luminance + np.array(COLOUR_DIFFERENCES) @ change @ to_differences
    return image.convert("RGB", tuple(np.column_stack([matrix, np.zeros(3)]).ravel().tolist()))


COLOUR: Final = {
    "brightness": Operation(_brightness, 0, 10, "factor of each value"),
    "contrast": Operation(_contrast, 0, 10, "factor of the distance from the mean luminance"),
    "saturation": Operation(_saturation, -10, 10, "factor of the colour differences"),
    "hue": Operation(_hue, -180, 180, "degrees"),
    "colour_cast": Operation(_colour_cast, 0, 1, "by what share channels may differ in brightness"),
    "mean_shift": Operation(_mean_shift, -1, 1, "what is added, as a share of full scale"),
    "tone_curve": Operation(_tone_curve, -2, 2, "twice what is added to the middle tone, as a share of full scale"),
    "clahe": Operation(clahe, 1, 40, "limit of a bin, in multiples of the mean"),
    "posterize": Operation(_posterize, 1, 8, "bits that are left of each channel", whole=True),
    "quantize": Operation(_quantize, 2, 256, "values that are left of each channel", whole=True),
}
