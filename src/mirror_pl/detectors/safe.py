"""SAFE: a small ResNet over the diagonal details of the central crop."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mirror_pl.detectors.resnet import ResnetDetector
from mirror_pl.images.spec import PreprocessSpec


class SafeDetector(ResnetDetector):
    """SAFE as published.

    It looks at band HH of the wavelet bior1.3 with half-sample symmetric borders. Its high pass is the difference of two
    neighbours, whose low pass plays no part: HH is Haar's, with one row or column more on each side, resized to the crop.
    """

    title = "SAFE"
    licence = "code and weights Apache-2.0"
    files = "checkpoint-best.pth, of the repository's folder checkpoint"
    recipe = PreprocessSpec(
        max_short_side_px=None, crop_px=256, align_suffixes=(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    outputs = 2

    def filtered(self, pixels: Tensor) -> Tensor:
        """Return the diagonal details ``(B, 3, H, W)`` of pixels in [0, 1] of even sides."""
        sides = pixels
        for axis in (2, 3):
            first, second = sides.narrow(axis, 0, 1), sides.narrow(axis, 1, 1)
            length = sides.shape[axis]
            last, one_before = sides.narrow(axis, length - 1, 1), sides.narrow(axis, length - 2, 1)
            # Mirrored at the border, two samples on each side.
            widened = (second, first, sides, last, one_before)
            sides = _differences(widened, axis)
        return F.interpolate(0.5 * sides, size=pixels.shape[2:], mode="bilinear", align_corners=False)


def _differences(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Return the differences of the samples of each pair along an axis."""
    pairs = torch.cat(parts, dim=axis).unflatten(axis, (-1, 2))
    return pairs.select(axis + 1, 0) - pairs.select(axis + 1, 1)
