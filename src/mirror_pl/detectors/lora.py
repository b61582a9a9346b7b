"""Low-rank adapters on q, k and v of every layer of a backbone, through peft."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mirror_pl.detectors.detector_config import LoraConfig
from mirror_pl.detectors.mapped import MappedFiles

ADAPTER = "default"
"""peft's name of the one adapter; part of the parameter names in the published files."""

# The names of the three projections: DINOv3 and DINOv2 from transformers 5.x on, DINOv2 under 4.57; CLIP has self_attn.
ATTENTION = r".*\.(attention|self_attn)\.(q_proj|k_proj|v_proj|attention\.query|attention\.key|attention\.value)"

_ADAPTED = re.compile(r"backbone\.layers\.\d+\.attention\.[qkv]\.weight")
"""The same, under this project's names."""


def add_lora(backbone: nn.Module, config: LoraConfig, targets: str = ATTENTION) -> None:
    """Put adapters around q, k and v of every layer, or whatever layers' names match `targets`, in place.

    B starts at zero, so the output does not change.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
    )
    inject_adapter_in_model(peft_config, backbone, adapter_name=ADAPTER)


def adapter_shapes(
    shapes: Mapping[str, torch.Size], config: LoraConfig, adapted: re.Pattern[str] = _ADAPTED
) -> dict[str, torch.Size]:
    """Return names and shapes of the adapters that go with a detector's tensors, given under this project's names.

    Args:
        shapes: Of the detector's tensors.
        config: Of the adapters.
        adapted: Which weights have one.
    """
    found = {}
    for name, shape in shapes.items():
        if adapted.fullmatch(name):
            layer = name.removesuffix(".weight")
            found[f"{layer}.lora_a"] = torch.Size((config.rank, shape[1]))
            found[f"{layer}.lora_b"] = torch.Size((shape[0], config.rank))
    return found


@torch.no_grad()
def merge_lora(
    tensors: Mapping[str, Tensor],
    config: LoraConfig,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Fold adapters into the weights they adapt: W + scaling x B A, computed in float32.

    Weights that stay where and what they are, are changed in place, since a second copy of them would be a fifth of the
    detector: of a memory-mapped file, which must be mapped privately, only the pages that change take memory, and the file
    stays as it is. Others are copied one by one.

    Args:
        tensors: Weights under this project's names; each ``X.lora_a`` ``(rank, in)`` goes with ``X.lora_b`` ``(out, rank)``
            and ``X.weight`` ``(out, in)``.
        config: The adapters' scaling.
        device: Where adapted weights go. None leaves them.
        dtype: Of adapted weights, once they are merged and rounded to what they were. None leaves them.

    Returns:
        The weights without adapters.
    """
    merged = {name: tensor.detach() for name, tensor in tensors.items() if not name.endswith((".lora_a", ".lora_b"))}
    files = MappedFiles()
    for name, lora_a in tensors.items():
        if name.endswith(".lora_a"):
            layer = name.removesuffix(".lora_a")
            weight = merged[f"{layer}.weight"]
            there, kind = torch.device(weight.device if device is None else device), dtype or weight.dtype
            stays = there == weight.device and kind == weight.dtype
            # The weight itself where it is float32 already.
            exact = weight.float() if stays else files.copied(weight, there, torch.float32)
            exact.addmm_(tensors[f"{layer}.lora_b"].to(exact), lora_a.to(exact), alpha=config.scaling)
            changed = exact if exact is weight else exact.to(weight.dtype)
            merged[f"{layer}.weight"] = weight.copy_(changed) if stays and exact is not weight else changed.to(kind)
    return merged
