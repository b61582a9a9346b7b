"""Effort: CLIP ViT-L/14 whose attention was trained in one direction a weight, and a linear layer over its class token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.baseline import AskedHeads, VitSize, assembled, check_depth, read_size
from mirror_pl.detectors.checkpoint.read import published_tensors
from mirror_pl.detectors.clip import VIT_L, ClipDetector
from mirror_pl.errors import CheckpointError, name_list
from mirror_pl.images.spec import CLIP_MEAN, CLIP_STD, PreprocessSpec

SPEC: Final = PreprocessSpec(
    decoder="opencv", max_short_side_px=None, squash_px=224, resample="opencv", crop_px=224, align_suffixes=(),
    mean=CLIP_MEAN, std=CLIP_STD,
)  # fmt: skip
"""The whole image, whatever its proportions, as OpenCV decodes and resizes it: the authors' demo without faces."""

_PASSED_OVER = re.compile(r"\.(S_r|U_r|V_r)$|\.position_ids$")
"""What the training code may save besides: the directions that were not trained, which `weight_main` holds already."""
_PARTS = ("weight_main", "U_residual", "S_residual", "V_residual")


class EffortDetector(ClipDetector):
    """Effort as published, its trained directions folded into the weights.

    Args:
        size: Of CLIP's vision transformer.
    """

    title = "Effort"
    licence = "CC BY-NC 4.0 as its README says, non-profit use only; OpenAI's CLIP, code and weights, MIT"
    restricted = True
    files = "effort_clip_L14_trainOn_sdv14.pth (or ..._chameleon, ..._FaceForensic), which holds CLIP"

    def __init__(self, size: VitSize = VIT_L) -> None:
        super().__init__(SPEC, nn.Linear(size.width, 2), size)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        size: AskedHeads = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> EffortDetector:
        """Load one of the published files.

        Args:
            checkpoint: The file.
            size: ``{"heads": N}`` where heads are not 64 wide; the file says the rest.
            device: Where its tensors are put, whichever device it was saved from.
            dtype: Of CLIP's weights; the linear layer is float32 always.

        Raises:
            CheckpointError: If the file is missing, damaged or unsafe, or any tensor is missing, unexpected or misshapen.
            ConfigError: If the number of heads is not known.
        """
        path = Path(checkpoint)
        raw = {name: each for name, each in published_tensors(path).items() if not _PASSED_OVER.search(name)}
        tensors = {
            re.sub(r"^backbone\.", "backbone.vision_model.", name): tensor for name, tensor in _folded(raw, path).items()
        }
        width, up = "backbone.vision_model.post_layernorm.weight", f"{cls.layers}0.mlp.fc1.weight"
        found = read_size(tensors, cls.layers, width, up, size, VIT_L, path)
        what = f"Effort (CLIP with patch 14, {found})"
        check_depth(tensors, cls.layers, found.depth, path, what)
        return assembled(lambda: cls(found), tensors, path, what, device, dtype)


def _folded(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return weights ``main + U diag(S) V``, in float32; U and V are no longer orthonormal, and S may be negative."""
    found = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in _PARTS}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in tensors if name.rpartition(".")[2] in _PARTS):
        if missing := [part for part in _PARTS if f"{layer}.{part}" not in tensors]:
            raise CheckpointError(f"checkpoint: {path} holds no Effort: {name_list(missing)} of {layer} missing")
        main, left, weights, right = (tensors[f"{layer}.{part}"].float() for part in _PARTS)
        if (left.ndim, weights.ndim, right.ndim) != (2, 1, 2) or main.shape != (len(left), right.shape[-1]):
            raise CheckpointError(f"checkpoint: {path} holds no Effort: the parts of {layer} do not go together")
        if not left.shape[1] == len(weights) == len(right):
            raise CheckpointError(f"checkpoint: {path} holds no Effort: the parts of {layer} do not go together")
        found[f"{layer}.weight"] = torch.addmm(main, left * weights, right)
    return found
