"""What every detector is: an `nn.Module` from pixels to a verdict, with a preprocessing recipe of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mirror_pl.images.spec import PreprocessSpec


class Verdict(NamedTuple):
    """The decision on a batch of images and what it rests on.

    Attributes:
        logit: ``(B,)`` float32; above 0 means fake. The decision is its sign.
        p_fake: ``(B,)`` float32 in [0, 1], ``sigmoid(logit)``.
        evidence: Named tensors whose first axis is the batch; which ones depends on the detector.
    """

    logit: Tensor
    p_fake: Tensor
    evidence: Mapping[str, Tensor]


class Detector(nn.Module, ABC):
    """Base of all detectors; a subclass implements `score` and owns a `spec`."""

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, pixels: Tensor) -> Verdict:
        """Score a batch of images.

        Args:
            pixels: ``(B, 3, H, W)`` RGB, uint8 in [0, 255] or floating point in [0, 1]; preprocessed by `spec` up to,
                and not including, the normalisation with its mean and std.

        Raises:
            ValueError: If the pixels have another shape or dtype.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels must be (B, 3, H, W), got {tuple(pixels.shape)}")
        if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
            raise ValueError(f"pixels must be uint8 in [0, 255] or floating point in [0, 1], got {pixels.dtype}")
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        return self.score(pixels)

    @abstractmethod
    def score(self, pixels: Tensor) -> Verdict:
        """Score pixels ``(B, 3, H, W)`` in [0, 1]."""
