"""Low-rank adapters on q, k and v of every layer of a backbone, through peft."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mirror_pl.detectors.config import LoraConfig

ADAPTER = "default"
"""peft's name of the one adapter; part of the parameter names in the published files."""

# Per transformers line, the names of the three projections: DINOv3 and DINOv2 from 5.x on, DINOv2 under 4.57.
_TARGETS = r".*\.attention\.(q_proj|k_proj|v_proj|attention\.query|attention\.key|attention\.value)"


def add_lora(backbone: nn.Module, config: LoraConfig) -> None:
    """Put adapters around q, k and v of every layer, in place; B starts at zero, so the output does not change."""
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=_TARGETS,
    )
    inject_adapter_in_model(peft_config, backbone, adapter_name=ADAPTER)


def merge_lora(tensors: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Fold adapters into the weights they adapt: W + scaling x B A, computed in float32.

    Args:
        tensors: Weights under this project's names; each ``X.lora_a`` ``(rank, in)`` goes with ``X.lora_b`` ``(out, rank)``
            and ``X.weight`` ``(out, in)``.
        config: The adapters' scaling.

    Returns:
        The weights without adapters; each keeps its dtype.
    """
    merged = {name: tensor for name, tensor in tensors.items() if not name.endswith((".lora_a", ".lora_b"))}
    for name, lora_a in tensors.items():
        if name.endswith(".lora_a"):
            layer = name.removesuffix(".lora_a")
            weight, lora_b = tensors[f"{layer}.weight"], tensors[f"{layer}.lora_b"]
            delta = config.scaling * (lora_b.float() @ lora_a.float())
            merged[f"{layer}.weight"] = (weight.float() + delta).to(weight.dtype)
    return {name: tensor.detach() for name, tensor in merged.items()}
