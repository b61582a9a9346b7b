"""What a published file is, which carries no config: the published defaults, and what names and shapes tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from mirror_pl.detectors.checkpoint.names import is_adapter
from mirror_pl.detectors.checkpoint.signature import Signature
from mirror_pl.detectors.config import BackboneConfig, DetectorConfig, HeadConfig, HeadInput, LoraConfig, MemoryBankConfig
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.errors import CheckpointError


def published_config(
    tensors: Mapping[str, Tensor], path: Path, backbone: BackboneConfig | None, bank_sizes: Mapping[str, Any]
) -> DetectorConfig:
    """Derive the config of a published file.

    Args:
        tensors: Its tensors, under our names, and those of a bank from a file of its own.
        path: Of the file, for messages.
        backbone: Its architecture; None tells it from the shapes, if they are those of a known one.
        bank_sizes: What the bank's own file says of it (``num_heads``, ``top_k``).

    Raises:
        CheckpointError: If the architecture is not given and not known.
    """
    if backbone is None:
        signature = Signature.of_tensors(tensors)
        name = None if signature is None else signature.known_as()
        if name is None:
            raise CheckpointError(
                f"checkpoint: the backbone of {path} is {signature or 'not recognisable'}; give its Hugging Face folder "
                "as backbone.path=FOLDER, or its name as backbone=NAME"
            )
        backbone = known_backbone(name)
    head = _head(tensors, backbone.width)
    has_bank = head.needs_bank or any(name.startswith("memory_bank.") for name in tensors)
    return DetectorConfig(
        backbone=backbone,
        lora=LoraConfig() if any(map(is_adapter, tensors)) else None,
        memory_bank=_bank(tensors, bank_sizes) if has_bank else None,
        head=head,
    )


def _bank(tensors: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> MemoryBankConfig:
    memory = tensors.get("memory_bank.memory")
    default = MemoryBankConfig()
    return MemoryBankConfig(
        slots=default.slots if memory is None or memory.ndim != 2 else memory.shape[0],
        heads=sizes.get("num_heads", default.heads),
        top_k=sizes.get("top_k", default.top_k),
    )


def _head(tensors: Mapping[str, Tensor], width: int) -> HeadConfig:
    """Tell the head from its tensors; one that fits no set of inputs is taken for the published one, and will not fit."""
    default = HeadConfig()
    sizes = {
        "perplexity_width": "head.perplexity_branch.0.weight",
        "residual_hidden": "head.residual_branch.0.weight",
        "residual_width": "head.residual_branch.3.weight",
        "hidden": "head.classifier.0.weight",
    }
    weights = {name: tensors[name] for name in sizes.values() if name in tensors and tensors[name].ndim == 2}
    found = {size: weights[name].shape[0] for size, name in sizes.items() if name in weights and weights[name].numel()}
    classifier = weights.get("head.classifier.0.weight")
    if classifier is None:
        return default
    joined = {
        "perplexity": found.get("perplexity_width", default.perplexity_width),
        "residual": found.get("residual_width", default.residual_width),
        "cls": width,
    }
    inputs: list[HeadInput] = [
        branch
        for branch in get_args(HeadInput)
        if branch != "cls" and any(name.startswith(f"head.{branch}_branch.") for name in tensors)
    ]
    without_cls = sum(joined[branch] for branch in inputs)
    if classifier.shape[1] == without_cls + width:
        inputs.append("cls")
    elif classifier.shape[1] != without_cls:
        return default
    return HeadConfig(inputs=tuple(inputs), **found)
