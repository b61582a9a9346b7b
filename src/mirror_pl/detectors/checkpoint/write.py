"""What is written of a detector: a checkpoint's content, and the folder of a config as JSON and weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.backbone_folder import BackboneSource
from mirror_pl.detectors.checkpoint.names import is_adapter, with_our_names
from mirror_pl.detectors.checkpoint.read import CONFIG_FILE, CONFIG_KEY, FORMAT_VERSION, WEIGHTS_FILE
from mirror_pl.detectors.checkpoint.torch_file import for_saving, is_plain
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.detector_config import DetectorConfig
from mirror_pl.errors import OutputError
from mirror_pl.files import default_mode, whole_folder, write_text


def detector_content(
    detector: Detector,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    backbone: BackboneSource | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a file holds of a detector; the two keys fit into a Lightning checkpoint too.

    Args:
        detector: On any device.
        tensors: Under our names, where they are others than the detector's own: an average, say.
        backbone: A folder that holds the weights of the backbone, all but the adapters', to the bit: so they are frozen, and
            no adapter is merged into them. They are left out, and the folder is recorded. None leaves nothing out.
        training: How it was trained, in plain values.

    Returns:
        ``state_dict``, tensors under our names, and ``mirror_pl``: what rebuilds the detector, the backbone's folder
        or None, and `training`.

    Raises:
        ValueError: If a weight that would be left out can be trained.
        TypeError: If `training` holds anything but plain values: the file could not be loaded safely.
    """
    training = dict(training or {})
    if not is_plain(training):
        raise TypeError(f"training: expected plain values only, got {training}")
    tensors = with_our_names(detector.state_dict()) if tensors is None else tensors
    if backbone is not None:
        trainable = with_our_names({name: part.requires_grad for name, part in detector.named_parameters()})
        left_out = [name for name in tensors if name.startswith("backbone.") and not is_adapter(name)]
        lost = [name for name in left_out if trainable.get(name)]
        if lost:
            raise ValueError(f"backbone: {lost[0]} is not frozen, and would not be in the file")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    return {
        "state_dict": {name: for_saving(tensor) for name, tensor in tensors.items()},
        CONFIG_KEY: {
            "detector": detector.rebuilt_from(),
            "backbone": None if backbone is None else backbone.to_dict(),
            "training": training,
        },
    }


def save_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: DetectorConfig,
    dtype: torch.dtype = torch.float32,
    training: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a detector to a new folder, whole or not at all.

    Args:
        folder: Must not exist.
        tensors: Weights under our names.
        config: The detector they belong to.
        dtype: Stored precision of the weights; the normalisation constants stay float32.
        training: How it was trained, in plain values, where that is known.
        texts: Further files, by their names.

    Raises:
        OutputError: If `folder` exists or cannot be written.
    """
    from safetensors.torch import save_file

    if folder.exists():
        raise OutputError(f"{folder} exists already; nothing is overwritten")
    stored = rounded(tensors, dtype)
    with whole_folder(folder) as temporary:
        save_file(stored, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        (temporary / WEIGHTS_FILE).chmod(default_mode())  # safetensors makes files that only their owner can read
        description: dict[str, Any] = {"format": "mirror_pl detector", "version": FORMAT_VERSION}
        description["detector"] = config.to_dict()
        if training:
            description["training"] = dict(training)
        for name, text in {**(texts or {}), CONFIG_FILE: json.dumps(description, indent=2) + "\n"}.items():
            write_text(temporary / name, text)


def rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights, given under our names, in `dtype`, but the normalisation constants in float32, ready to be saved."""
    return {
        name: for_saving(tensor, torch.float32 if name.startswith("normalise.") else dtype)
        for name, tensor in tensors.items()
    }
