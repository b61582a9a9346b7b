"""The preprocessing recipe, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from mirror_pl.errors import ConfigError, shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


LARGEST_SIDE_PX: Final = 2**16
LARGEST_CROP_PX: Final = 4096
"""A crop has its square in pixels, and a transformer the square of that to work on."""

EVERY_SUFFIX: Final = "*"
"""Among the suffixes to align: every file's, whatever it is called."""


Decoder = Literal["pillow", "opencv"]
Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "opencv"]
"""Pillow's filters by their names, all with antialias; and OpenCV's bilinear one, without."""


@dataclass(frozen=True)
class PreprocessSpec:
    """How a decoded image becomes the pixels of one detector. A detector owns one; a checkpoint carries it.

    The defaults are MIRROR's published evaluation protocol. The steps are applied in the order of the fields.

    Attributes:
        decoder: Whose rules a file becomes RGB by: Pillow's, or those of OpenCV, which turns by EXIF; see `decode`.
        max_short_side_px: A longer short side is resized to this; ``None`` does not resize.
        short_side_px: The short side is resized to this, larger or smaller as it may be; the long one is truncated, as
            torchvision does. ``None`` does not resize.
        squash_px: Both sides are resized to this, whatever the image's proportions. ``None`` does not resize.
        resample: The filter of any of these three, of which a recipe has one at most.
        crop_px: Side of the square centre crop; smaller images are padded with zeros first.
        crop_from: How the place of a crop is rounded where a half is left over: ``even``, as torchvision does, or ``floor``,
            as transformers does.
        align_suffixes: File suffixes (lower case, with the dot) whose crop is JPEG-compressed and decoded again, so that
            a lossless file format gives nothing away ("format alignment"); `EVERY_SUFFIX` stands for all.
        align_quality: JPEG quality of that compression, 1 to 100.
        mean: Per RGB channel, subtracted from pixels in [0, 1]; applied on the device, by the detector.
        std: Per RGB channel, divided by after that.

    Raises:
        ConfigError: For a value that no picture can be made to.
    """

    decoder: Decoder = "pillow"
    max_short_side_px: int | None = 512
    short_side_px: int | None = None
    squash_px: int | None = None
    resample: Resample = "bicubic"
    crop_px: int = 224
    crop_from: Literal["even", "floor"] = "even"
    align_suffixes: tuple[str, ...] = (".png", ".bmp")
    align_quality: int = 96
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if type(self.crop_px) is not int or not 1 <= self.crop_px <= LARGEST_CROP_PX:
            raise ConfigError(f"crop_px must be a whole number from 1 to {LARGEST_CROP_PX}, got {self.crop_px}")
        resizes = ("max_short_side_px", "short_side_px", "squash_px")
        for name in resizes:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= LARGEST_SIDE_PX):
                raise ConfigError(f"{name} must be a whole number from 1 to {LARGEST_SIDE_PX}, or None, got {value}")
        if sum(getattr(self, name) is not None for name in resizes) > 1:
            raise ConfigError(f"of {', '.join(resizes)}, a recipe has one at most")
        for name, known in (("decoder", Decoder), ("resample", Resample)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(known))}; got {shown(getattr(self, name))}")
        if self.crop_from not in ("even", "floor"):
            raise ConfigError(f"crop_from must be even or floor, got {shown(self.crop_from)}")
        if not 1 <= self.align_quality <= 100:
            raise ConfigError(f"align_quality must be from 1 to 100, got {self.align_quality}")
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean must be finite numbers, one per RGB channel, got {self.mean}")
        if len(self.std) != 3 or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"std must be finite numbers above 0, one per RGB channel, got {self.std}")

    def aligns(self, suffix: str) -> bool:
        """Whether crops of a file with this suffix are compressed to JPEG; letter case does not matter."""
        return suffix.lower() in self.align_suffixes or EVERY_SUFFIX in self.align_suffixes
