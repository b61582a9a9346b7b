"""Names of DINOv2's original code, which timm shares, and ours; DDA's and B-Free's files are written under them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mirror_pl.detectors.checkpoint.names import substitute

_LAYER = r"^blocks\.(\d+)\."
_NAMES = (
    # DDA's wrapping: the whole, and each adapted layer.
    (re.compile(r"^base_model\.fc\."), "head."),
    (re.compile(r"^base_model\.model\."), ""),
    (re.compile(r"\.original_layer\."), "."),
    (re.compile(r"\.lora\.lora_A$"), ".lora_a"),
    (re.compile(r"\.lora\.lora_B$"), ".lora_b"),
    # A layer.
    (re.compile(_LAYER + r"(norm[12])\."), r"backbone.layers.\1.\2."),
    (re.compile(_LAYER + r"attn\.qkv\."), r"backbone.layers.\1.attention.qkv."),
    (re.compile(_LAYER + r"attn\.proj\."), r"backbone.layers.\1.attention.o."),
    (re.compile(_LAYER + r"ls([12])\.gamma$"), r"backbone.layers.\1.layer_scale\2"),
    (re.compile(_LAYER + r"mlp\.fc1\."), r"backbone.layers.\1.mlp.up."),
    (re.compile(_LAYER + r"mlp\.fc2\."), r"backbone.layers.\1.mlp.down."),
    # Around the layers.
    (re.compile(r"^(cls_token|mask_token)$"), r"backbone.embeddings.\1"),
    (re.compile(r"^reg_token$"), "backbone.embeddings.register_tokens"),
    (re.compile(r"^pos_embed$"), "backbone.embeddings.position_embeddings"),
    (re.compile(r"^patch_embed\.proj\."), "backbone.embeddings.patches."),
    (re.compile(r"^norm\."), "backbone.norm."),
)
_QKV = re.compile(r"^(backbone\.layers\.\d+\.attention\.)qkv\.(weight|bias|lora_a|lora_b)$")


def from_original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names in a file to ours.

    There, q, k and v are one projection with one adapter; here they are three, each a part of the same memory. An adapter
    of the one is three that share its A.

    A name that nothing is known of comes back unchanged, to be reported as unexpected; so does the second of two names for
    the same thing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = substitute(name, _NAMES)
        match = _QKV.match(ours)
        if match is None or tensor.ndim == 0:
            parts = {ours: tensor}
        else:
            shared = match[2] == "lora_a"
            thirds = (tensor,) * 3 if shared else tensor.chunk(3)
            parts = {f"{match[1]}{letter}.{match[2]}": part for letter, part in zip("qkv", thirds, strict=False)}
        found.update({name: tensor} if found.keys() & parts.keys() else parts)
    return found
