"""A decoded image becomes the uint8 pixels that a detector or a bank is trained on, as an `AugmentSpec` declares."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.errors import ConfigError
from mirror_pl.images.preprocess import align_format, crop_origin, scaled_size

JPEG_LONGEST_SIDE_PX: Final = 65_500
"""Longest side that libjpeg writes."""


@dataclass(frozen=True)
class AugmentSpec:
    """How training crops are drawn. The defaults are those of MIRROR's published training code.

    Each image is cropped in one of four ways, drawn by their probabilities. Resizing is bicubic with antialias throughout;
    the published description does not name its filter.

    Attributes:
        crop_px: Side of the square crop. An image with a shorter side is first resized so that its short side is this.
        p_centre: Probability of the central crop.
        p_resize: Probability of the whole image, resized to the crop's size whatever its aspect.
        p_random: Probability of a crop at a random place.
        p_rescaled: Probability of a crop at a random place after the short side was resized to a size drawn from
            `rescale_px`.
        rescale_px: Smallest and largest such size, both included, at least `crop_px`.
        p_mirror: Probability that the crop is mirrored left to right; the published code mirrors none.
        jpeg_quality: Smallest and largest quality, both included, of the JPEG compression that ends the augmentation of
            every crop, real or fake; None compresses none.
        align_quality: JPEG quality that a fake is compressed at before anything else; None leaves fakes as they are.

    Raises:
        ConfigError: If a probability is negative, they do not sum to 1, or a size or quality is out of range.
    """

    crop_px: int = 224
    p_centre: float = 0.3
    p_resize: float = 0.1
    p_random: float = 0.3
    p_rescaled: float = 0.3
    rescale_px: tuple[int, int] = (224, 1024)
    p_mirror: float = 0.0
    jpeg_quality: tuple[int, int] | None = (50, 100)
    align_quality: int | None = 96

    def __post_init__(self) -> None:
        for name in ("rescale_px", "jpeg_quality"):  # configs have lists
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.crop_px < 1:
            raise ConfigError(f"augment.crop_px must be at least 1, got {self.crop_px}")
        probabilities = self.probabilities
        if not all(0 <= p <= 1 for p in probabilities) or abs(sum(probabilities) - 1) > 1e-6:
            names = ", ".join(f"{name}={getattr(self, name)}" for name in _KINDS)
            raise ConfigError(f"augment: probabilities of the crops must be 0 or more and sum to 1, got {names}")
        if not 0 <= self.p_mirror <= 1:
            raise ConfigError(f"augment.p_mirror must be between 0 and 1, got {self.p_mirror}")
        if self.p_rescaled:
            _check_range("rescale_px", self.rescale_px, self.crop_px, None, "augment.crop_px")
        else:  # drawn from all the same
            _check_range("rescale_px", self.rescale_px, 1, None, "1")
        if self.jpeg_quality is not None:
            _check_range("jpeg_quality", self.jpeg_quality, 1, 100, "1")
        if self.align_quality is not None and not 1 <= self.align_quality <= 100:
            raise ConfigError(f"augment.align_quality must be 1 to 100, or null for none, got {self.align_quality}")

    @property
    def probabilities(self) -> tuple[float, float, float, float]:
        """Of the central crop, the resized image, the random crop and the rescaled random crop."""
        return self.p_centre, self.p_resize, self.p_random, self.p_rescaled

    @classmethod
    def fixed(cls, crop_px: int = 224) -> AugmentSpec:
        """Return the recipe that draws nothing: the central crop, without any JPEG compression."""
        return cls(crop_px, 1.0, 0.0, 0.0, 0.0, (crop_px, crop_px), 0.0, jpeg_quality=None, align_quality=None)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing is left to chance, so that every epoch sees the same pixels."""
        always = (self.p_centre == 1 or self.p_resize == 1) and self.p_mirror in (0, 1)
        return always and (self.jpeg_quality is None or self.jpeg_quality[0] == self.jpeg_quality[1])


_KINDS: Final = ("p_centre", "p_resize", "p_random", "p_rescaled")
_CENTRE, _RESIZE, _RANDOM, _RESCALED = range(4)


def _check_range(name: str, limits: tuple[int, int], lowest: int, highest: int | None, lowest_name: str) -> None:
    if len(limits) != 2 or not lowest <= limits[0] <= limits[1] <= (limits[1] if highest is None else highest):
        above = "" if highest is None else f" and at most {highest}"
        below = lowest_name if lowest_name == str(lowest) else f"{lowest_name} = {lowest}"
        raise ConfigError(
            f"augment.{name} must be [smallest, largest], in this order, at least {below}{above}, got {list(limits)}"
        )


def augment(image: Image.Image, spec: AugmentSpec, rng: np.random.Generator, *, fake: bool) -> NDArray[np.uint8]:
    """Draw a training crop from an RGB image.

    A fake is compressed whole, before it is cropped or resized: the reals it is to look like were compressed as whole files
    too, so that a crop's place in the 8-pixel grid of that compression, and what resizing makes of it, are alike in both.

    Always the same six numbers are drawn from `rng`, in the same order: way of cropping, short side, place (x, then y),
    JPEG quality, whether to mirror.

    Args:
        image: Decoded RGB image of any size.
        spec: The recipe.
        rng: Where all chance comes from.
        fake: Whether the image is fake; fakes are aligned to the format of the reals.

    Returns:
        ``(crop, crop, 3)`` uint8, RGB.
    """
    chance = rng.random()
    low, high = spec.rescale_px
    short_px = int(rng.integers(low, high, endpoint=True))
    place = rng.random(), rng.random()
    low, high = spec.jpeg_quality or (1, 1)
    quality = int(rng.integers(low, high, endpoint=True))
    mirrored = rng.random() < spec.p_mirror

    align_quality = spec.align_quality if fake else None
    writable = max(image.size) <= JPEG_LONGEST_SIDE_PX
    if align_quality is not None and writable:
        image = align_format(image, align_quality)
    crop = _crop(image, spec, chance, short_px, place)
    if align_quality is not None and not writable:  # no JPEG can hold the whole
        crop = align_format(crop, align_quality)
    if mirrored:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if spec.jpeg_quality is not None:
        crop = align_format(crop, quality)
    return np.array(crop)


def _crop(image: Image.Image, spec: AugmentSpec, chance: float, short_px: int, place: tuple[float, float]) -> Image.Image:
    edge = spec.crop_px
    kind = _drawn(spec.probabilities, chance)
    if kind == _RESIZE:
        return image.resize((edge, edge), Image.Resampling.BICUBIC)
    if kind == _RESCALED:
        size = scaled_size(image.size, short_px)
    else:
        size = image.size if min(image.size) >= edge else scaled_size(image.size, edge)
    if kind == _CENTRE:
        left, top = (crop_origin(side, edge) for side in size)
    else:
        left, top = (int(at * (side - edge + 1)) for at, side in zip(place, size, strict=True))
    return _resized_window(image, size, left, top, edge)


def _drawn(probabilities: tuple[float, ...], chance: float) -> int:
    """Return which of the events happened, for a `chance` in [0, 1); never one of probability 0."""
    bounds = list(accumulate(probabilities))
    return bisect_right(bounds, chance * bounds[-1])


def _resized_window(image: Image.Image, size: tuple[int, int], left: int, top: int, edge: int) -> Image.Image:
    """Return the square at ``(left, top)`` of the image resized to `size`, without computing the rest of it.

    A tenth of the time for usual photographs, and safe for very long ones. Pillow may pass over rows and columns in another
    order than for the whole, which rounds differently.
    """
    if size == image.size:
        return image.crop((left, top, left + edge, top + edge))
    x, y = image.width / size[0], image.height / size[1]
    right, bottom = min((left + edge) * x, image.width), min((top + edge) * y, image.height)
    return image.resize((edge, edge), Image.Resampling.BICUBIC, box=(left * x, top * y, right, bottom))
