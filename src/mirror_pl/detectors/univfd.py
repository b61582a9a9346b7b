"""UnivFD (UniversalFakeDetect): CLIP ViT-L/14 as it is, and a linear layer over its image embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn

from mirror_pl.detectors.baseline import AskedSize, VitSize, asked_size, assembled, check_depth, check_fit
from mirror_pl.detectors.checkpoint.read import read_checkpoint
from mirror_pl.detectors.clip import PATCH_PX, VIT_L, ClipDetector, read_clip
from mirror_pl.errors import ConfigError, shown
from mirror_pl.images.spec import CLIP_MEAN, CLIP_STD, PreprocessSpec

PROJECTION: Final = 768
"""Features of the published embedding."""
SPEC: Final = PreprocessSpec(max_short_side_px=None, crop_px=224, align_suffixes=(), mean=CLIP_MEAN, std=CLIP_STD)
"""The central crop of the image as it is, padded with zeros."""


class UnivfdDetector(ClipDetector):
    """UnivFD as published; its embedding is projected, and not brought to length 1.

    Args:
        size: Of CLIP's vision transformer.
        projection: Features of the embedding.
    """

    title = "UnivFD"
    licence = "code and fc_weights.pth MIT; OpenAI's CLIP, code and weights, MIT"
    files = "fc_weights.pth, and the folder of openai/clip-vit-large-patch14"

    def __init__(self, size: VitSize = VIT_L, projection: int = PROJECTION) -> None:
        if type(projection) is not int or not 1 <= projection <= 2**14:
            raise ConfigError(f"projection must be a number of features, got {shown(projection)}")
        super().__init__(SPEC, nn.Linear(projection, 1), size, projection, projection=projection)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        backbone_folder: str | Path,
        size: AskedSize = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> UnivfdDetector:
        """Load the published ``fc_weights.pth`` and the CLIP it belongs to, which it does not hold.

        Args:
            checkpoint: The linear layer.
            backbone_folder: CLIP; see `read_clip`.
            size: Of CLIP's vision transformer, where it is no folder, which says it itself.
            device: Where the tensors are put, whichever device they were saved from.
            dtype: Of CLIP's weights, whatever they are stored in: the published code computes in float32, though OpenAI's
                file has half precision. The linear layer is float32 always.

        Raises:
            CheckpointError: If a file is missing, damaged, unsafe or of another CLIP, or any tensor is missing, unexpected
                or of the wrong shape.
        """
        path, clip = Path(checkpoint), Path(backbone_folder)
        head = {f"head.{name}": tensor for name, tensor in read_checkpoint(path).tensors.items()}
        tensors, size, found = read_clip(clip, asked_size(size, VIT_L))
        projection, what = found or PROJECTION, f"CLIP (patch {PATCH_PX}, {size})"
        check_depth(tensors, cls.layers, size.depth, clip, what)
        over = f"UnivFD's linear layer over the {projection} features of the CLIP in {clip}"
        check_fit(head, {"head.weight": torch.Size((1, projection)), "head.bias": torch.Size((1,))}, path, over)
        return assembled(lambda: cls(size, projection), tensors | head, clip, what, device, dtype)
