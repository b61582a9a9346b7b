"""What every recipe ends with, on the device: pixels in [0, 1] become numbers around 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Subtract the mean and divide by the std of each channel; part of the detector, as in the published weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise ``(B, 3, H, W)`` pixels in [0, 1]."""
        return (pixels - self.mean).div_(self.std)
