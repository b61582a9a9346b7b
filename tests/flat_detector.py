"""A detector without weights that costs nothing and depends on every pixel, for tests of what is around detectors."""

from __future__ import annotations

from torch import Tensor

from mirror_pl.detectors import Detector, Verdict
from mirror_pl.images import PreprocessSpec


class FlatDetector(Detector):
    def __init__(self) -> None:
        super().__init__(PreprocessSpec())
        self.eval()

    def score(self, pixels: Tensor) -> Verdict:
        brightness = pixels.mean(dim=(1, 2, 3))
        logit = 4 * (brightness - 0.5)
        return Verdict(logit, logit.sigmoid(), {"brightness": brightness, "mean_residual": pixels.mean(dim=(2, 3))})
