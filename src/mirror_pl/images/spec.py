"""The preprocessing recipe, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mirror_pl.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


LARGEST_CROP_PX: Final = 4096
"""A crop has its square in pixels, and a transformer the square of that to work on."""

EVERY_SUFFIX: Final = "*"
"""Among the suffixes to align: every file's, whatever it is called."""


@dataclass(frozen=True)
class PreprocessSpec:
    """How a decoded image becomes the pixels of one detector. A detector owns one; a checkpoint carries it.

    The defaults are MIRROR's published evaluation protocol. The steps are applied in the order of the fields.

    Attributes:
        max_short_side_px: A longer short side is resized to this (bicubic with antialias); ``None`` never resizes.
        crop_px: Side of the square centre crop; smaller images are padded with zeros first.
        align_suffixes: File suffixes (lower case, with the dot) whose crop is JPEG-compressed and decoded again, so that
            a lossless file format gives nothing away ("format alignment"); `EVERY_SUFFIX` stands for all.
        align_quality: JPEG quality of that compression, 1 to 100.
        mean: Per RGB channel, subtracted from pixels in [0, 1]; applied on the device, by the detector.
        std: Per RGB channel, divided by after that.

    Raises:
        ConfigError: For a value that no picture can be made to.
    """

    max_short_side_px: int | None = 512
    crop_px: int = 224
    align_suffixes: tuple[str, ...] = (".png", ".bmp")
    align_quality: int = 96
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.crop_px <= LARGEST_CROP_PX:
            raise ConfigError(f"crop_px must be from 1 to {LARGEST_CROP_PX}, got {self.crop_px}")
        if self.max_short_side_px is not None and self.max_short_side_px < 1:
            raise ConfigError(f"max_short_side_px must be at least 1, or None, got {self.max_short_side_px}")
        if not 1 <= self.align_quality <= 100:
            raise ConfigError(f"align_quality must be from 1 to 100, got {self.align_quality}")
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean must be finite numbers, got {self.mean}")
        if not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"std must be finite numbers above 0, got {self.std}")

    def aligns(self, suffix: str) -> bool:
        """Whether crops of a file with this suffix are compressed to JPEG; letter case does not matter."""
        return suffix.lower() in self.align_suffixes or EVERY_SUFFIX in self.align_suffixes
