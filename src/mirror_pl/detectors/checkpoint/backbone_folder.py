"""Backbone weights from a Hugging Face folder, which training starts from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from mirror_pl.detectors.backbone import Backbone, read_backbone_folder
from mirror_pl.detectors.checkpoint.names import our_name
from mirror_pl.errors import CheckpointError, name_list

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"


def load_backbone(folder: Path) -> Backbone:
    """Build a backbone around the weights in a folder, frozen and in eval mode; they stay mapped from their files.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` (or its shards) of a DINOv2 or DINOv3 model, of any line of
            transformers.

    Raises:
        CheckpointError: If a file is missing or damaged, or any tensor is missing, unexpected or of the wrong shape.
    """
    config = read_backbone_folder(folder)
    tensors = {_ours(name): tensor for name, tensor in _read(folder).items()}
    with torch.device("meta"):
        backbone = Backbone(config)
    live = {our_name(f"backbone.{name}"): name for name in backbone.state_dict()}
    shapes = {ours: backbone.state_dict()[name].shape for ours, name in live.items()}
    wrong = [name for name, tensor in tensors.items() if name in shapes and tensor.shape != shapes[name]]
    missing, unexpected = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
    for problem, names in (("misses", missing), ("holds the unknown", unexpected), ("has other shapes in", wrong)):
        if names:
            raise CheckpointError(f"backbone.path: {folder} {problem} {name_list(sorted(names), 4)}; expected {config}")
    backbone.load_state_dict({live[name]: tensor.float() for name, tensor in tensors.items()}, assign=True)
    backbone.restore_constants()
    return backbone.requires_grad_(False).eval()


def _ours(name: str) -> str:
    return our_name(f"backbone.model.{name}")


def _read(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [WEIGHTS]
    try:
        if not (folder / WEIGHTS).is_file():
            if not (folder / SHARDS).is_file():
                raise CheckpointError(f"backbone.path: no {WEIGHTS} in {folder}; weights are read from safetensors only")
            index = json.loads((folder / SHARDS).read_text(encoding="utf-8"))
            files = sorted(set(index["weight_map"].values()))
            if any(Path(file).name != file for file in files):
                raise CheckpointError(f"backbone.path: {folder / SHARDS} names files outside its folder")
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors.update(load_file(folder / file))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"backbone.path: the weights in {folder} cannot be read: {error}") from error
    return tensors
