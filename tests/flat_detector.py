"""A detector that costs nothing and depends on every pixel, for tests of what is around detectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mirror_pl.detectors import Detector, Verdict
from mirror_pl.images import PreprocessSpec


class FlatDetector(Detector):
    def __init__(self) -> None:
        super().__init__(PreprocessSpec())
        self.weight = nn.Parameter(torch.tensor(4.0))
        self.requires_grad_(False).eval()

    def score(self, pixels: Tensor) -> Verdict:
        brightness = pixels.mean(dim=(1, 2, 3))
        logit = self.weight * (brightness - 0.5)
        return Verdict(logit, logit.sigmoid(), {"brightness": brightness, "mean_residual": pixels.mean(dim=(2, 3))})
