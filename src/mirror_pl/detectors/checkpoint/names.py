"""Names of tensors: ours, those of the published files, and those of transformers, whose names keep moving.

Our names, in our safetensors files and Lightning checkpoints::

    normalise.{mean,std}
    backbone.embeddings.{cls_token,mask_token,register_tokens,position_embeddings}
    backbone.embeddings.patches.{weight,bias}
    backbone.layers.N.{norm1,norm2}.{weight,bias}
    backbone.layers.N.attention.{q,k,v,o}.{weight,bias}, and .{q,k,v}.{lora_a,lora_b}
    backbone.layers.N.{layer_scale1,layer_scale2}
    backbone.layers.N.mlp.{gate,up,down}.{weight,bias}
    backbone.norm.{weight,bias}
    memory_bank.memory, memory_bank.{q,k,v,out}.weight, memory_bank.out.bias
    head.{perplexity_branch,residual_branch,classifier}.I.{weight,bias}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from mirror_pl.detectors.lora import ADAPTER

BANK_NAMES = frozenset(
    f"memory_bank.{name}" for name in ("memory", "q.weight", "k.weight", "v.weight", "out.weight", "out.bias")
)
"""Our names of the tensors that a Phase-1 file holds."""

# What wrappers put before a name: DistributedDataParallel and torch.compile.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")

# Published names of everything around transformers' module, and ours. A live detector's names are ours already, but for
# the module of transformers, which it holds as `backbone.model`.
_AROUND = (
    (re.compile(r"^norm\."), "normalise."),
    (re.compile(r"^memory_bank\.([qkv]|out)_proj\."), r"memory_bank.\1."),
    (re.compile(r"^detector\.perplexity_mlp\."), "head.perplexity_branch."),
    (re.compile(r"^detector\.residual_mlp\."), "head.residual_branch."),
    (re.compile(r"^detector\.head\."), "head.classifier."),
)
_TRANSFORMERS = re.compile(r"^backbone\.(?:dino|model)\.")

# What peft puts into a name: around a layer it was given whole, around a weight it adapts, and after an adapter.
_PEFT = (
    (re.compile(r"\.base_model\.model\."), "."),
    (re.compile(r"\.base_layer\."), "."),
    (re.compile(rf"\.lora_A\.{ADAPTER}\.weight$"), ".lora_a"),
    (re.compile(rf"\.lora_B\.{ADAPTER}\.weight$"), ".lora_b"),
)

# transformers' names inside a backbone and ours, line by line. They exclude each other, so one table reads every line.
_LAYER = r"^layers\.(\d+)\."
_BACKBONE = (
    # Where the layers are.
    (re.compile(r"^model\.layer\."), "layers."),  # DINOv3, from 5.4 on
    (re.compile(r"^layer\."), "layers."),  # DINOv3, to 5.3
    (re.compile(r"^encoder\.layer\."), "layers."),  # DINOv2, all
    # Attention.
    (re.compile(_LAYER + r"attention\.attention\.(q|k|v)(?:uery|ey|alue)\."), r"layers.\1.attention.\2."),  # DINOv2, 4.57
    (re.compile(_LAYER + r"attention\.output\.dense\."), r"layers.\1.attention.o."),  # DINOv2, 4.57
    (re.compile(_LAYER + r"attention\.([qkvo])_proj\."), r"layers.\1.attention.\2."),  # DINOv3, all; DINOv2, 5.x
    # The rest of a layer, the same in all lines.
    (re.compile(_LAYER + r"layer_scale([12])\.lambda1$"), r"layers.\1.layer_scale\2"),
    (re.compile(_LAYER + r"mlp\.(gate|up|down)_proj\."), r"layers.\1.mlp.\2."),  # DINOv3
    (re.compile(_LAYER + r"mlp\.fc1\."), r"layers.\1.mlp.up."),  # DINOv2
    (re.compile(_LAYER + r"mlp\.fc2\."), r"layers.\1.mlp.down."),  # DINOv2
    # Around the layers.
    (re.compile(r"^embeddings\.patch_embeddings\.(?:projection\.)?"), "embeddings.patches."),
    (re.compile(r"^layernorm\."), "norm."),  # DINOv2
)


def our_name(name: str) -> str:
    """Translate a tensor's name, from a published file, a live detector or one of our files, to ours.

    A name that nothing is known of comes back unchanged, to be reported as unexpected.
    """
    name = substitute(_WRAPPERS.sub("", name), _AROUND)
    if name.startswith("backbone."):
        name = substitute(name, _PEFT)
    match = _TRANSFORMERS.match(name)
    return name if match is None else "backbone." + substitute(name[match.end() :], _BACKBONE)


def unwrapped(name: str) -> str:
    """Return a tensor's name without what wrappers put before it."""
    return _WRAPPERS.sub("", name)


def our_bank_name(name: str) -> str:
    """Translate a tensor's name from a Phase-1 file, where ``memory_bank.`` may or may not stand first."""
    name = _WRAPPERS.sub("", name)
    return our_name(name if name.startswith("memory_bank.") else f"memory_bank.{name}")


def is_adapter(name: str) -> bool:
    """Whether one of our names is that of a LoRA adapter's tensor."""
    return name.endswith((".lora_a", ".lora_b"))


def substitute(name: str, table: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """Apply the replacements of `table` to a name, one after another."""
    for pattern, replacement in table:
        name = pattern.sub(replacement, name)
    return name


T = TypeVar("T")


def with_our_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Translate all names of `tensors`, a state dict of a live detector or of any file."""
    return {our_name(name): tensor for name, tensor in tensors.items()}


def live_names(detector: nn.Module) -> dict[str, str]:
    """Return, for each of our names, the name that tensor has inside `detector` under the installed transformers."""
    return {our_name(name): name for name in detector.state_dict()}


_ORIGINAL_LAYER = r"^blocks\.(\d+)\."
_ORIGINAL = (
    # DDA's wrapping: the whole, and each adapted layer.
    (re.compile(r"^base_model\.fc\."), "head."),
    (re.compile(r"^base_model\.model\."), ""),
    (re.compile(r"\.original_layer\."), "."),
    (re.compile(r"\.lora\.lora_A$"), ".lora_a"),
    (re.compile(r"\.lora\.lora_B$"), ".lora_b"),
    # A layer.
    (re.compile(_ORIGINAL_LAYER + r"(norm[12])\."), r"backbone.layers.\1.\2."),
    (re.compile(_ORIGINAL_LAYER + r"attn\.qkv\."), r"backbone.layers.\1.attention.qkv."),
    (re.compile(_ORIGINAL_LAYER + r"attn\.proj\."), r"backbone.layers.\1.attention.o."),
    (re.compile(_ORIGINAL_LAYER + r"attn\.([qv])_bias$"), r"backbone.layers.\1.attention.\2.bias"),  # timm's DINOv3
    (re.compile(_ORIGINAL_LAYER + r"(?:ls([12])\.gamma|gamma_([12]))$"), r"backbone.layers.\1.layer_scale\2\3"),
    (re.compile(_ORIGINAL_LAYER + r"mlp\.fc1_g\."), r"backbone.layers.\1.mlp.gate."),  # timm's DINOv3
    (re.compile(_ORIGINAL_LAYER + r"mlp\.fc1(?:_x)?\."), r"backbone.layers.\1.mlp.up."),
    (re.compile(_ORIGINAL_LAYER + r"mlp\.fc2\."), r"backbone.layers.\1.mlp.down."),
    # Around the layers.
    (re.compile(r"^(cls_token|mask_token)$"), r"backbone.embeddings.\1"),
    (re.compile(r"^reg_token$"), "backbone.embeddings.register_tokens"),
    (re.compile(r"^pos_embed$"), "backbone.embeddings.position_embeddings"),
    (re.compile(r"^patch_embed\.proj\."), "backbone.embeddings.patches."),
    (re.compile(r"^norm\."), "backbone.norm."),
)
_QKV = re.compile(r"^(backbone\.layers\.\d+\.attention\.)qkv\.(weight|bias|lora_a|lora_b)$")


def from_original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names in a file of DDA, B-Free or timm to ours.

    There, q, k and v are one projection with one adapter; here they are three, each a part of the same memory. An adapter
    of the one is three that share its A.

    A name that nothing is known of comes back unchanged, to be reported as unexpected; so does the second of two names for
    the same thing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = substitute(name, _ORIGINAL)
        match = _QKV.match(ours)
        if match is None or tensor.ndim == 0:
            parts = {ours: tensor}
        else:
            shared = match[2] == "lora_a"
            thirds = (tensor,) * 3 if shared else tensor.chunk(3)
            parts = {f"{match[1]}{letter}.{match[2]}": part for letter, part in zip("qkv", thirds, strict=False)}
        found.update({name: tensor} if found.keys() & parts.keys() else parts)
    return found
