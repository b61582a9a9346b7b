"""RINE: CLIP ViT-L/14 as it is, looked at inside every layer, and a small network over what is seen there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.baseline import VitSize, assembled, check_depth
from mirror_pl.detectors.checkpoint.read import published_tensors
from mirror_pl.detectors.clip import VIT_L, ClipDetector, clip_tower, read_clip
from mirror_pl.detectors.exact import exact_float32
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.images.spec import CLIP_MEAN, CLIP_STD, PreprocessSpec

SPEC: Final = PreprocessSpec(max_short_side_px=None, crop_px=224, align_suffixes=(), mean=CLIP_MEAN, std=CLIP_STD)
"""The central crop of the image as it is, padded with zeros, as of UnivFD."""


class LayerTokens(nn.Module):
    """CLIP's vision transformer, which says what its class token is inside each layer: between attention and MLP."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.vision_model: Any = clip_tower(size, None).get_submodule("vision_model")

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the class tokens ``(B, layers, D)`` after the second layer norm of each layer."""
        tower, found = self.vision_model, []
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers:
            hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), None)[0]
            inside = layer.layer_norm2(hidden)
            found.append(inside[:, 0])
            hidden = hidden + layer.mlp(inside)
        return torch.stack(found, dim=1)


class Projection(nn.Module):
    """What RINE makes of the class tokens of all layers: one feature, weighted by what it learnt of each layer.

    Args:
        width: Features of a token.
        features: Of the result.
        depth: Number of layers.
        count: Of linear layers before and after the weighting, 4 or 2.
    """

    def __init__(self, width: int, features: int, depth: int, count: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, depth, features))
        self.proj1 = _relu_layers([width, *[features] * count])
        self.proj2 = _relu_layers([features] * (count + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(B, features)`` of tokens ``(B, depth, width)``."""
        weighted = self.proj1(tokens) * self.alpha.softmax(dim=1)
        found: Tensor = self.proj2(weighted.sum(dim=1))
        return found


def _relu_layers(widths: list[int]) -> nn.Sequential:
    """Linear layers, each with a ReLU after it, and a dropout of the published code before it, which is counted."""
    return nn.Sequential(
        *(part for before, after in pairwise(widths) for part in (nn.Identity(), nn.Linear(before, after), nn.ReLU()))
    )


class RineDetector(ClipDetector):
    """RINE as published, of any of its four files.

    Args:
        size: Of CLIP's vision transformer.
        features: Of what the head sees.
        projections: Linear layers before and after the weighting of layers.
    """

    title = "RINE"
    licence = "code and weights Apache-2.0; OpenAI's CLIP, code and weights, MIT"
    files = "model_{1class,2class,4class,ldm}_trainable.pth, and the folder of openai/clip-vit-large-patch14"

    def __init__(self, size: VitSize = VIT_L, features: int = 1024, projections: int = 2) -> None:
        for name, value, most in (("features", features, 2**14), ("projections", projections, 16)):
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"{name} must be from 1 to {most}, got {value}")
        wide = (nn.Linear(features, features), nn.ReLU(), nn.Identity())  # the last a dropout, and counted
        head = nn.Sequential(*wide, nn.Linear(features, features), nn.ReLU(), nn.Identity(), nn.Linear(features, 1))
        super().__init__(SPEC, head, size, features=features, projections=projections)
        self.backbone = LayerTokens(size)
        self.projection = Projection(size.width, features, size.depth, projections)

    def feature(self, pixels: Tensor) -> Tensor:
        """Return what the head sees, ``(B, features)`` float32."""
        tokens = self.backbone(pixels)
        with exact_float32(tokens.device):
            return self.projection(tokens.float())

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        backbone_folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> RineDetector:
        """Load a published file and the CLIP it belongs to, which it does not hold.

        Args:
            checkpoint: The file.
            backbone_folder: CLIP; see `read_clip`.
            device: Where the tensors are put, whichever device they were saved from.
            dtype: Of CLIP's weights; the published code has them in float16 on a GPU. The rest is float32 always.

        Raises:
            CheckpointError: If a file is missing, damaged, unsafe or of another CLIP, or any tensor is missing, unexpected
                or misshapen.
        """
        path, clip = Path(checkpoint), Path(backbone_folder)
        trained = {
            name if name.startswith("head.") else f"projection.{name}": tensor
            for name, tensor in published_tensors(path).items()
        }
        alpha = trained.get("projection.alpha")
        if alpha is None or alpha.ndim != 3:
            raise CheckpointError(f"checkpoint: {path} holds no RINE: no alpha (1, layers, features) among its tensors")
        tensors, size, _ = read_clip(clip)
        tensors.pop("backbone.visual_projection.weight", None)
        count = sum(name.startswith("projection.proj1.") and name.endswith(".weight") for name in trained)
        what = f"RINE ({alpha.shape[2]} features, {count} projections) over CLIP (patch 14, {size}) from {clip}"
        check_depth(tensors, cls.layers, size.depth, clip, what)
        return assembled(lambda: cls(size, alpha.shape[2], count), tensors | trained, path, what, device, dtype)
