"""DINOv3 as timm repackages it: the same numbers under other names, less what is zero, and a config that tells little."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.names import from_original_names
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.detectors.known_backbones import Signature
from mirror_pl.errors import CheckpointError, ConfigError, shown
from mirror_pl.images.spec import PreprocessSpec

_ARCHITECTURE: Final = re.compile(r"vit_(?P<size>\w+)_patch\d+_dinov3(_qkvb)?")
_HEAD_WIDTH: Final = {"7b": 128}
"""Features per attention head, by size of the model; of all others 64."""
_QUERY = re.compile(r"^backbone\.layers\.\d+\.attention\.q\.weight$")


def is_of_timm(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have timm's names."""
    return any(name.startswith("blocks.") for name in tensors)


def from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate timm's names to ours, and add as zeros what it leaves out.

    That is the mask token, which only pretraining looks at, and the biases of q and v: only the variants ``_qkvb`` have
    these. A file that has some of them and not others gets none, so that it is refused.
    """
    ours = from_original_names(tensors)
    token = ours.get("backbone.embeddings.cls_token")
    if token is not None:
        ours.setdefault("backbone.embeddings.mask_token", torch.zeros_like(token))
    if not any(name.endswith(("attention.q.bias", "attention.v.bias")) for name in ours):
        for name, weight in list(ours.items()):
            if _QUERY.match(name) and weight.ndim:
                for letter in "qv":
                    ours[name.replace(".q.weight", f".{letter}.bias")] = weight.new_zeros(len(weight))
    return ours


def config_of_timm(file: Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BackboneConfig:
    """Return the architecture of a DINOv3 of timm: its sizes are those of its tensors.

    The number of heads leaves no trace there. It is what ``model_args`` says, or else what the published models have: a head
    for each 64 features, and for each 128 of the 7B.

    Args:
        file: The ``config.json``, for messages.
        values: What is in it.
        tensors: The weights, under our names.

    Raises:
        CheckpointError: If it is another model, or its pixels are normalised by other constants than MIRROR's recipe has, as
            those of the models for satellite images are.
    """
    name, published, arguments = (values.get(key) for key in ("architecture", "pretrained_cfg", "model_args"))
    match = _ARCHITECTURE.fullmatch(name) if isinstance(name, str) else None
    signature = Signature.of_tensors(tensors)
    if match is None or signature is None or signature.family != "dinov3":
        raise CheckpointError(
            f"backbone_folder: {file} describes timm's {shown(name)}; expected a DINOv3 with its weights, such as "
            "vit_huge_plus_patch16_dinov3. A DINOv2 is read from a folder of transformers"
        )
    published = published if isinstance(published, dict) else {}
    for key, expected in (("mean", PreprocessSpec().mean), ("std", PreprocessSpec().std)):
        if published.get(key, list(expected)) != list(expected):
            raise CheckpointError(
                f"backbone_folder: {file} wants pixels normalised with the {key} {shown(published[key])}; the recipe has "
                f"{list(expected)}. Take a model of lvd1689m: one of sat493m is for satellite images"
            )
    heads = arguments.get("num_heads") if isinstance(arguments, dict) else None
    head_width = _HEAD_WIDTH.get(match["size"], 64)
    if heads is None and signature.width % head_width:
        raise CheckpointError(
            f"backbone_folder: {file} does not say how many heads {signature} has; expected model_args: "
            f"{{num_heads: ...}}, or a width that is a multiple of {head_width}"
        )
    try:
        return BackboneConfig(**vars(signature), heads=signature.width // head_width if heads is None else heads)
    except ConfigError as error:
        raise CheckpointError(f"backbone_folder: {file} describes no backbone: {error}") from error
