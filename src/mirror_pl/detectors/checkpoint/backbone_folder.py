"""Backbone weights from a folder of transformers or timm: training starts from them, and its files may leave them there."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mirror_pl.detectors.backbone import Backbone, config_of_transformers
from mirror_pl.detectors.checkpoint.fit import check_weights, missing_layers
from mirror_pl.detectors.checkpoint.names import our_name
from mirror_pl.detectors.checkpoint.timm_dinov3 import config_of_timm, from_timm, is_of_timm
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.errors import CheckpointError, name_list
from mirror_pl.files import RACY_NS, path_sha256, path_state, read_json
from mirror_pl.hub import with_origin

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class BackboneSource:
    """The folder that a detector's frozen backbone weights come from.

    Attributes:
        path: Absolute.
        sha256: What `backbone_sha256` says of it.
    """

    path: Path
    sha256: str

    @classmethod
    def of(cls, folder: Path) -> BackboneSource:
        """Return the source that `folder` is now.

        Raises:
            CheckpointError: As `backbone_sha256`.
        """
        return cls(folder.resolve(), backbone_sha256(folder))

    def to_dict(self) -> dict[str, str]:
        """Return it in plain values, as files and run records carry it; a folder of the Hugging Face Hub has its id too."""
        return with_origin({"path": str(self.path), "sha256": self.sha256})


def load_backbone(folder: Path) -> Backbone:
    """Build a backbone around the weights in a folder, frozen and in eval mode; they stay mapped from their files.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` (or its shards) of a DINOv2 or DINOv3 model, of any line of
            transformers, or of timm's DINOv3.

    Raises:
        CheckpointError: If a file is missing or damaged, or any tensor is missing, unexpected or of the wrong shape.
    """
    config = read_backbone_folder(folder)
    tensors = read_backbone_weights(folder)
    if problems := missing_layers(tensors, "backbone.layers.", config.depth):
        raise CheckpointError(f"backbone_folder: {folder} misses layers of {config}:{problems[0]}")
    with torch.device("meta"):
        backbone = Backbone(config)
    live = {our_name(f"backbone.{name}"): name for name in backbone.state_dict()}
    shapes = {ours: backbone.state_dict()[name].shape for ours, name in live.items()}
    wrong = [name for name, tensor in tensors.items() if name in shapes and tensor.shape != shapes[name]]
    missing, unexpected = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
    for problem, names in (("misses", missing), ("holds the unknown", unexpected), ("has other shapes in", wrong)):
        if names:
            raise CheckpointError(f"backbone_folder: {folder} {problem} {name_list(sorted(names), 4)}; expected {config}")
    backbone.load_state_dict({live[name]: tensor for name, tensor in tensors.items()}, assign=True)
    backbone.restore_constants()
    return backbone.requires_grad_(False).eval()


def read_backbone_folder(folder: Path) -> BackboneConfig:
    """Read the architecture from a model folder of transformers or timm; the folder's name means nothing.

    Args:
        folder: Holds a ``config.json`` of a DINOv2 or DINOv3 model; timm's says too little, and the weights say the rest.

    Raises:
        CheckpointError: If there is none, or it describes a model this project does not build.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(
            f"backbone_folder: no {CONFIG} in {folder}. Expected a Hugging Face model folder of DINOv2 or DINOv3"
        )
    try:
        values = read_json(file)
        if "model_type" not in values and "architecture" in values:  # timm
            return config_of_timm(file, values, read_backbone_weights(folder))
        values["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"backbone_folder: {file} is no Hugging Face model config ({error!r})") from error
    return config_of_transformers(file, values)


def read_backbone_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights in a folder in float32, under our names; see `read_tensors`. Those that are float32 are not copied.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    tensors = read_tensors(folder)
    ours = (
        from_timm(tensors)
        if is_of_timm(tensors)
        else {our_name(f"backbone.model.{name}"): tensors[name] for name in tensors}
    )
    return {name: tensor.float() for name, tensor in ours.items()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights in a folder as they are there; nothing is checked for fit.

    They stay mapped from the disk. The mapping is private: they may be changed, the files stay as they are.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    try:
        for file in _weight_files(folder):
            tensors.update(load_file(folder / file))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"backbone_folder: the weights in {folder} cannot be read: {error}") from error
    check_weights(tensors, folder)
    return tensors


def backbone_sha256(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of what makes a folder's backbone: names and hashes of config and weights.

    Other files beside them, such as a README, count for nothing. As long as no file of the folder changes, a process reads
    them once: they may be gigabytes.

    Raises:
        CheckpointError: If a file is missing or cannot be read.
    """
    place, state = folder.resolve(), path_state(folder)
    if place in _hashed and _hashed[place][0] == state:
        return _hashed[place][1]
    now = time.time_ns()
    newest = max((int(time_ns) for _name, _size, _inode, *times in state for time_ns in times), default=now)
    digest = hashlib.sha256()
    try:
        for name in (CONFIG, *_weight_files(folder)):
            digest.update(f"{name}\0{path_sha256(folder / name)}\n".encode())
    except OSError as error:
        raise CheckpointError(f"backbone_folder: {folder} cannot be read: {error.strerror or error}") from error
    if now - newest > RACY_NS:
        _hashed[place] = (state, digest.hexdigest())
    return digest.hexdigest()


_hashed: dict[Path, tuple[tuple[tuple[str | int, ...], ...], str]] = {}
"""For each folder that was hashed, the state it was in and its hash."""


def _weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files in a folder."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / SHARDS).is_file():
        raise CheckpointError(f"backbone_folder: no {WEIGHTS} in {folder}; weights are read from safetensors only")
    try:
        files = sorted(set(read_json(folder / SHARDS)["weight_map"].values()))
        outside = any(Path(file).name != file or not file.endswith(".safetensors") or "\0" in file for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"backbone_folder: the weights in {folder} cannot be read: {error}") from error
    if outside:
        raise CheckpointError(f"backbone_folder: {folder / SHARDS} names files outside its folder, or no safetensors")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise CheckpointError(f"backbone_folder: no {name_list(missing, 4)} in {folder}, which {SHARDS} names")
    return files
