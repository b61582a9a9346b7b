"""Community Forensics: ViT-S/16 over the central crop of the resized image, and a linear layer over its class token."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.baseline import AskedHeads, Baseline, VitSize, assembled, check_depth, read_size
from mirror_pl.detectors.checkpoint.names import from_original_names
from mirror_pl.detectors.checkpoint.read import published_tensors
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.errors import CheckpointError
from mirror_pl.images.spec import PreprocessSpec

VIT_S: Final = VitSize(width=384, depth=12, heads=6, mlp_width=1536)
"""The published size."""
PATCH_PX: Final = 16
SHORT_SIDE_PX: Final = {384: 440, 224: 256}
"""What the short side is resized to, by the side of the crop; there is a published file for each."""


class CommforDetector(Baseline):
    """Community Forensics as published.

    Its ViT is DINOv2's without what that adds to it: the layer scales are 1, which changes no bit, and no patch is masked.

    Args:
        size: Of the ViT.
        crop_px: 384 or 224, which the positions in the file are for.
    """

    title = "Community Forensics"
    licence = "code MIT, weights MIT as their pages on the hub are said to state; the ViT they are built on Apache-2.0"
    files = "the folder commfor-model-384 or commfor-model-224 of OwensLab on the Hugging Face hub, or its model.safetensors"
    backbone: Backbone

    def __init__(self, size: VitSize = VIT_S, crop_px: int = 384) -> None:
        if crop_px not in SHORT_SIDE_PX:
            raise CheckpointError(f"checkpoint: positions for images of {crop_px} px; Community Forensics has 384 or 224")
        spec = PreprocessSpec(
            max_short_side_px=None,
            short_side_px=SHORT_SIDE_PX[crop_px],
            resample="bilinear",
            crop_px=crop_px,
            align_suffixes=(),
        )
        vit = BackboneConfig(
            "dinov2", size.width, size.depth, size.heads, size.mlp_width, patch_px=PATCH_PX, native_px=crop_px
        )
        super().__init__(spec, Backbone(vit), nn.Linear(size.width, 1), size=size, crop_px=crop_px)

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the class token ``(B, D)``."""
        return self.backbone(pixels).cls

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        size: AskedHeads = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> CommforDetector:
        """Load the published ``model.safetensors``, or ``model_v11_ViT_384_base_ckpt.pt``.

        Args:
            checkpoint: The file, or its folder, whose ``config.json`` says nothing of the network and is not read.
            size: ``{"heads": N}`` where heads are not 64 wide; the file says the rest.
            device: Where its tensors are put, whichever device it was saved from.
            dtype: Of the ViT's weights; the linear layer is float32 always.

        Raises:
            CheckpointError: If the file is missing, damaged or unsafe, or any tensor is missing, unexpected or misshapen.
            ConfigError: If the number of heads is not known.
        """
        path = Path(checkpoint)
        tensors = from_original_names({name.removeprefix("vit."): each for name, each in published_tensors(path).items()})
        up = f"{cls.layers}0.mlp.up.weight"
        found = read_size(tensors, cls.layers, "backbone.norm.weight", up, size, VIT_S, path)
        what = f"Community Forensics (ViT with patch {PATCH_PX}, {found})"
        check_depth(tensors, cls.layers, found.depth, path, what)
        for layer in range(found.depth):
            tensors |= {f"{cls.layers}{layer}.layer_scale{number}": torch.ones(found.width) for number in (1, 2)}
        tensors["backbone.embeddings.mask_token"] = torch.zeros(1, found.width)
        table = tensors.get("backbone.embeddings.position_embeddings")
        positions = table.shape[1] - 1 if table is not None and table.ndim == 3 else 0
        crop_px = round(positions**0.5) * PATCH_PX
        return assembled(lambda: cls(found, crop_px), tensors, path, what, device, dtype)
