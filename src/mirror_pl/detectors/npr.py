"""NPR: a small ResNet over how pixels differ from a neighbour, in the squashed image."""

from __future__ import annotations

from torch import Tensor

from mirror_pl.detectors.resnet import ResnetDetector
from mirror_pl.images.spec import PreprocessSpec


class NprDetector(ResnetDetector):
    """NPR as published, by the protocol of ForenSynths, DiffusionForensics and UniversalFakeDetect: squashed to 256 px.

    It also scores pixels of other sizes, if both sides are even, as by the authors' protocol without resizing.
    """

    title = "NPR"
    licence = "none is stated by its repository: all rights reserved; ask its authors"
    restricted = True
    files = "NPR.pth or model_epoch_last_3090.pth"
    recipe = PreprocessSpec(max_short_side_px=None, squash_px=256, resample="bilinear", crop_px=256, align_suffixes=())
    outputs = 1
    any_size = True

    def filtered(self, pixels: Tensor) -> Tensor:
        """Return what pixels differ by from the top left one of their 2 x 2, times 2 / 3.

        Raises:
            ValueError: If a side is odd.
        """
        if pixels.shape[2] % 2 or pixels.shape[3] % 2:
            raise ValueError(f"pixels for NPR must have even sides, got {tuple(pixels.shape)}")
        corners = pixels[:, :, ::2, ::2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return (pixels - corners) * 2.0 / 3.0
