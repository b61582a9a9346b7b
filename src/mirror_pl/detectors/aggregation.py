"""From the logits of an image's crops to the image's verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mirror_pl.errors import ConfigError, nearest
from mirror_pl.images.crops import CROPS, crop_count

AGGREGATES: Final = ("mean", "median", "topk", "max")
VALUES: Final = ("logit", "score")


@dataclass(frozen=True)
class CropPolicy:
    """Which crops of an image are scored, and what becomes of their logits. The default is the published protocol.

    Attributes:
        crops: One of `CROPS`; see `plan_crops`.
        aggregate: ``mean``; ``median`` (of an even number, the mean of the two in the middle); ``topk``, the mean of the
            largest; ``max``.
        of: What is aggregated: ``logit``, or ``score``, which is p_fake.
        top_fraction: Of the crops, for ``topk``: how many are taken, rounded up.
    """

    crops: str = "center"
    aggregate: str = "mean"
    of: str = "logit"
    top_fraction: float = 1 / 3

    def __post_init__(self) -> None:
        for name, options in (("crops", CROPS), ("aggregate", AGGREGATES), ("of", VALUES)):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(
                    f"{name} must be one of {', '.join(options)}; got {value!r}.{nearest(str(value), options)}"
                )
        if not 0 < self.top_fraction <= 1:
            raise ConfigError(f"top_fraction must be above 0 and at most 1, got {self.top_fraction}")

    @property
    def count(self) -> int:
        """Crops an image."""
        return crop_count(self.crops)

    def is_same_as(self, other: CropPolicy) -> bool:
        """Whether the two give every image the same score: one crop is the image's score, however it is aggregated."""
        return self.crops == other.crops and (self.count == 1 or self == other)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``logit`` and ``p_fake`` ``(B,)`` float32 of images, from their crops' logits ``(B, C)``.

        With one crop these are the crop's own, to the bit. Where scores are aggregated, the logit is that of the score.
        """
        if logits.shape[1] == 1:
            logit = logits[:, 0].float()
            return logit, logit.sigmoid()
        values = logits.double()
        if self.of == "logit":
            logit = self._aggregated(values)
            return logit.float(), logit.sigmoid().float()
        score = self._aggregated(values.sigmoid())
        return score.logit().float(), score.float()

    def _aggregated(self, values: Tensor) -> Tensor:
        """Aggregate ``(B, C)`` float64 over the crops; NaN if any of them is."""
        if self.aggregate == "mean":
            return values.mean(dim=1)
        if self.aggregate == "median":
            return torch.quantile(values, 0.5, dim=1)
        if self.aggregate == "max":
            return values.amax(dim=1)
        kept = math.ceil(round(self.top_fraction * values.shape[1], 9))  # a third of 9 is 3, whatever float rounding says
        return values.topk(kept, dim=1).values.mean(dim=1)
