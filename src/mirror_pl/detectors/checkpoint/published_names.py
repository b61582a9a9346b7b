"""The way back from our names to those of the published files, which were written under transformers 4.57."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mirror_pl.detectors.checkpoint.names import is_adapter, substitute
from mirror_pl.detectors.config import Family
from mirror_pl.detectors.lora import ADAPTER

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
