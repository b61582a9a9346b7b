"""DDA, Dual Data Alignment: DINOv2 ViT-L/14 with adapters on every layer, and a linear layer over its CLS token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.baseline import (
    AskedSize,
    Baseline,
    VitSize,
    asked_size,
    assembled,
    check_depth,
    check_fit,
    tensor_shapes,
)
from mirror_pl.detectors.checkpoint.names import from_original_names, is_adapter
from mirror_pl.detectors.checkpoint.read import read_checkpoint
from mirror_pl.detectors.detector_config import BackboneConfig, LoraConfig
from mirror_pl.detectors.lora import adapter_shapes, merge_lora
from mirror_pl.images.spec import CLIP_MEAN, CLIP_STD, PreprocessSpec

VIT_L: Final = VitSize(width=1024, depth=24, heads=16, mlp_width=4096)
"""The published size."""
SPEC: Final = PreprocessSpec(max_short_side_px=None, crop_px=336, align_suffixes=(), mean=CLIP_MEAN, std=CLIP_STD)
"""The central crop of the image as it is, padded with zeros; normalised with CLIP's constants, though DINOv2 has others."""
LORA: Final = LoraConfig(rank=8, alpha=1.0)
PATCH_PX: Final = 14

TABLE_EDGE: Final = 37
"""Positions a side of the table in the file, made for images of 518 px."""

_ADAPTED = re.compile(r"backbone\.layers\.\d+\.(attention\.[qkvo]|mlp\.(up|down))\.weight")
"""The adapted weights, under this project's names."""


class DdaDetector(Baseline):
    """DDA as published; its backbone's position table is that of 336 px already.

    Args:
        size: Of the backbone.
    """

    title = "DDA"
    licence = "code and weights Apache-2.0; DINOv2, which they are built on, Apache-2.0"
    files = "DDA_ckpt.pth"
    backbone: Backbone
    adapted = r".*\.(attention\.([qkvo]_proj|attention\.(query|key|value)|output\.dense)|mlp\.fc[12])"
    # by their live names: DINOv2 from transformers 5.x on, and under 4.57

    def __init__(self, size: VitSize = VIT_L) -> None:
        backbone = Backbone(
            BackboneConfig(
                "dinov2", size.width, size.depth, size.heads, size.mlp_width, patch_px=PATCH_PX, native_px=SPEC.crop_px
            )
        )
        super().__init__(SPEC, backbone, nn.Linear(size.width, 1), size=size)

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the CLS token ``(B, D)`` of normalised pixels ``(B, 3, 336, 336)``."""
        return self.backbone(pixels).cls

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        size: AskedSize = None,
        merge: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> DdaDetector:
        """Load the published ``DDA_ckpt.pth``, which holds the backbone too.

        Weights stay mapped from the file until they are used; it must not be written to meanwhile.

        Args:
            checkpoint: The file. The state of its optimizer is passed over.
            size: Of its backbone, which it does not carry.
            merge: Fold the adapters into the weights, which is faster and changes scores by float rounding only.
            device: Where its tensors are put, whichever device it was saved from.
            dtype: Of the backbone's weights; the linear layer is float32 always.

        Raises:
            CheckpointError: If the file is missing, damaged or unsafe, or any tensor is missing, unexpected or of the wrong
                shape.
        """
        path, size = Path(checkpoint), asked_size(size, VIT_L)
        tensors = from_original_names(read_checkpoint(path).tensors)
        what = f"DDA (DINOv2 with patch {PATCH_PX}, {size})"
        check_depth(tensors, cls.layers, size.depth, path, what)

        def make(adapted: bool = not merge) -> DdaDetector:
            detector = cls(size)
            if adapted:
                detector.adapt(LORA)
            return detector

        with torch.device("meta"):
            shapes = {name: shape for name, shape in tensor_shapes(make()).items() if not is_adapter(name)}
        shapes |= adapter_shapes(shapes, LORA, _ADAPTED)
        shapes[_TABLE] = torch.Size((1, TABLE_EDGE**2 + 1, size.width))
        check_fit(tensors, shapes, path, what)
        tensors[_TABLE] = resampled_positions(tensors[_TABLE], SPEC.crop_px // PATCH_PX)
        if merge:
            tensors = merge_lora(tensors, LORA, device)
        return assembled(make, tensors, path, what, device, dtype)


_TABLE = "backbone.embeddings.position_embeddings"


def resampled_positions(table: Tensor, edge: int, more: float = 0.1) -> Tensor:
    """Resample a position table to `edge` positions a side.

    DINOv2's first code does so for every image, and asks for a tenth of a position more than it wants, against rounding, so
    that the table is read at other places than by resampling to the size itself: with the golden weights, that would move
    logits by 0.29.

    Args:
        table: ``(1, 1 + E * E, D)``, the class token's position first, which is kept as it is.
        edge: Of the grid wanted.
        more: What is asked for besides: 0.1 as there, or 0, as transformers does.

    Returns:
        ``(1, 1 + edge * edge, D)`` float32.
    """
    before = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].float().unflatten(1, (before, before)).permute(0, 3, 1, 2)
    scale = (edge + more) / before
    to: dict[str, Any] = {"scale_factor": (scale, scale)} if more else {"size": (edge, edge)}
    grid = F.interpolate(grid, **to, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([table[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)
