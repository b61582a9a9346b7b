"""The published files: what their names and shapes tell, and the way back from ours to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.names import is_adapter, substitute
from mirror_pl.detectors.checkpoint.read import CONFIG_KEY
from mirror_pl.detectors.checkpoint.torch_file import save_torch
from mirror_pl.detectors.checkpoint.write import rounded
from mirror_pl.detectors.detector_config import (
    BackboneConfig,
    DetectorConfig,
    Family,
    HeadConfig,
    HeadInput,
    LoraConfig,
    MemoryBankConfig,
)
from mirror_pl.detectors.known_backbones import Signature, known_backbone
from mirror_pl.detectors.lora import ADAPTER
from mirror_pl.errors import CheckpointError
from mirror_pl.images.spec import PreprocessSpec


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
                "as backbone_folder=FOLDER, or its name as backbone=NAME"
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


_AROUND = (
    (re.compile(r"^normalise\."), "norm."),
    (re.compile(r"^memory_bank\.(q|k|v|out)\."), r"memory_bank.\1_proj."),
    (re.compile(r"^head\.perplexity_branch\."), "detector.perplexity_mlp."),
    (re.compile(r"^head\.residual_branch\."), "detector.residual_mlp."),
    (re.compile(r"^head\.classifier\."), "detector.head."),
    (re.compile(r"^backbone\."), "backbone.dino."),
)

# peft was given each layer whole, and put something of its own around the weights it adapts.
_LAYER = r"^(backbone\.dino\.layers\.\d+)\."
_PEFT = (
    (re.compile(_LAYER + r"(attention\.[qkv])\.(weight|bias)$"), r"\1.\2.base_layer.\3"),
    (re.compile(_LAYER + r"(attention\.[qkv])\.lora_a$"), rf"\1.\2.lora_A.{ADAPTER}.weight"),
    (re.compile(_LAYER + r"(attention\.[qkv])\.lora_b$"), rf"\1.\2.lora_B.{ADAPTER}.weight"),
    (re.compile(_LAYER), r"\1.base_model.model."),
)

_SCALES = (re.compile(r"\.layer_scale([12])$"), r".layer_scale\1.lambda1")
_BACKBONE: dict[Family, tuple[tuple[re.Pattern[str], str], ...]] = {
    "dinov3": (
        _SCALES,
        (re.compile(r"^backbone\.dino\.embeddings\.patches\."), "backbone.dino.embeddings.patch_embeddings."),
        (re.compile(r"\.attention\.([qkvo])\."), r".attention.\1_proj."),
        (re.compile(r"\.mlp\.(gate|up|down)\."), r".mlp.\1_proj."),
        (re.compile(r"^backbone\.dino\.layers\."), "backbone.dino.layer."),
    ),
    "dinov2": (
        _SCALES,
        (re.compile(r"^backbone\.dino\.embeddings\.patches\."), "backbone.dino.embeddings.patch_embeddings.projection."),
        (re.compile(r"\.attention\.o\."), ".attention.output.dense."),
        (re.compile(r"\.attention\.q\."), ".attention.attention.query."),
        (re.compile(r"\.attention\.k\."), ".attention.attention.key."),
        (re.compile(r"\.attention\.v\."), ".attention.attention.value."),
        (re.compile(r"\.mlp\.up\."), ".mlp.fc1."),
        (re.compile(r"\.mlp\.down\."), ".mlp.fc2."),
        (re.compile(r"^backbone\.dino\.norm\."), "backbone.dino.layernorm."),
        (re.compile(r"^backbone\.dino\.layers\."), "backbone.dino.encoder.layer."),
    ),
}


def published_names(names: Iterable[str], family: Family) -> dict[str, str]:
    """Return, for each of our names of a detector's tensors, the name it has in a published file.

    Args:
        names: All of them: without adapters among them, nothing of peft is in the published ones.
        family: Of the backbone.
    """
    names = list(names)
    peft = _PEFT if any(map(is_adapter, names)) else ()
    return {name: substitute(name, (*_AROUND, *peft, *_BACKBONE[family])) for name in names}


def published_bank_name(name: str) -> str:
    """Return the name that a tensor of a `MemoryBank` has in a Phase-1 file; both without ``memory_bank.`` before them."""
    return substitute(f"memory_bank.{name}", _AROUND).removeprefix("memory_bank.")


def save_published(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: DetectorConfig,
    dtype: torch.dtype = torch.float32,
    *,
    epoch: int = 0,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a detector as the published training code does, whole or not at all; `load_detector` takes it too.

    Our config goes with it, under a key that the published code passes over, so that nothing about the detector is lost that
    `departures` names.

    Args:
        path: Must not exist.
        tensors: Weights under our names, all of them.
        config: The detector they belong to.
        dtype: Stored precision of the weights; the normalisation constants stay float32.
        epoch: Epochs it was trained for.
        training: How it was trained, in plain values, where that is known.

    Raises:
        OutputError: If `path` exists or cannot be written.
    """
    names = published_names(tensors, config.backbone.family)
    ours: dict[str, Any] = {"detector": config.to_dict()}
    if training:
        ours["training"] = dict(training)
    model = {names[name]: tensor for name, tensor in rounded(tensors, dtype).items()}
    save_torch(path, {"model": model, "epoch": epoch, CONFIG_KEY: ours})


def departures(config: DetectorConfig) -> list[str]:
    """Return what a detector has that the published code does not know of: with any of it, that code cannot use its file."""
    recipe = replace(config.preprocess, mean=PreprocessSpec().mean, std=PreprocessSpec().std)  # these two are in the file
    head = replace(config.head, dropout=HeadConfig().dropout)  # not used once it is trained
    found = {
        "no LoRA adapters": config.lora is None,
        f"LoRA of {config.lora}": config.lora not in (None, LoraConfig()),
        "no register tokens in the bank": config.drop_registers and config.backbone.registers > 0,
        "no memory bank": config.memory_bank is None,
        f"a bank of {config.memory_bank}": config.memory_bank not in (None, MemoryBankConfig()),
        f"head inputs {', '.join(head.inputs)}": head.inputs != HeadConfig().inputs,
        "other head sizes": replace(head, inputs=HeadConfig().inputs) != HeadConfig(),
        "another preprocessing": recipe != PreprocessSpec(),
    }
    return [what for what, is_so in found.items() if is_so]
