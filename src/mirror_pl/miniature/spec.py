"""The miniature world, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mirror_pl.errors import ConfigError, name_list
from mirror_pl.miniature.decoders import DECODERS

STRIDE_PX = 4
"""Crops and patches are multiples of this: the decoders halve their sides twice."""


@dataclass(frozen=True)
class WorldSpec:
    """How the miniature world is made. The defaults take half a minute on one core.

    Attributes:
        crop_px: Side of every image written.
        box_px: Smallest and largest side of the squares that are cut out of the photographs, both included; each is
            resized to `crop_px`.
        least_contrast: Standard deviation of its luma, in 0 to 255, below which a square is passed over: in empty sky
            there is nothing to see.
        train_crops: Crops of each photograph of the training split.
        val_crops: Of the validation split.
        test_crops: Of the test split.
        jpeg_quality: At which every image, real or fake, is written once.
        held_out: The decoder whose fakes are in the test set only.
        steps: Of training, for each decoder.
        batch_size: Patches a step.
        patch_px: Side of the square patches that the decoders are trained on.
        threads: Of torch, while the decoders are trained; the bytes of the world depend on it.
    """

    crop_px: int = 64
    box_px: tuple[int, int] = (64, 240)
    least_contrast: float = 10.0
    train_crops: int = 260
    val_crops: int = 80
    test_crops: int = 40
    jpeg_quality: int = 85
    held_out: str = "nearest"
    steps: int = 400
    batch_size: int = 16
    patch_px: int = 32
    threads: int = 1

    def __post_init__(self) -> None:
        if self.held_out not in DECODERS:
            raise ConfigError(f"miniature.held_out must be one of {name_list(DECODERS)}, got {self.held_out!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"miniature.{field.name} must be at least 1, got {value}")
        if not self.crop_px <= self.box_px[0] <= self.box_px[1]:
            raise ConfigError(
                f"miniature.box_px must be [smallest, largest], in this order, at least crop_px = {self.crop_px}, got "
                f"{list(self.box_px)}"
            )
        if self.jpeg_quality > 100:
            raise ConfigError(f"miniature.jpeg_quality must be 1 to 100, got {self.jpeg_quality}")
        if self.crop_px % STRIDE_PX or self.patch_px % STRIDE_PX or self.patch_px > self.crop_px:
            raise ConfigError(
                f"miniature.crop_px and miniature.patch_px must be multiples of {STRIDE_PX}, the patch not the larger one, "
                f"got {self.crop_px} and {self.patch_px}"
            )

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of the decoders whose fakes are trained on."""
        return tuple(name for name in DECODERS if name != self.held_out)

    def crops(self, split: str) -> int:
        """Return the crops of each photograph of a split."""
        return {"train": self.train_crops, "val": self.val_crops, "test": self.test_crops}[split]
