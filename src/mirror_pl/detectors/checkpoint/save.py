"""Our own format: a folder with the config as JSON and the weights as safetensors, under names of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.files import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE
from mirror_pl.detectors.checkpoint.torch_file import for_saving
from mirror_pl.detectors.config import DetectorConfig
from mirror_pl.errors import OutputError
from mirror_pl.files import default_mode, whole_folder, write_text


def save_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: DetectorConfig,
    dtype: torch.dtype = torch.float32,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a detector to a new folder, whole or not at all.

    Args:
        folder: Must not exist.
        tensors: Weights under our names.
        config: The detector they belong to.
        dtype: Stored precision of the weights; the normalisation constants stay float32.
        training: How it was trained, in plain values, where that is known.

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
        write_text(temporary / CONFIG_FILE, json.dumps(description, indent=2) + "\n")


def rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights, given under our names, in `dtype`, but the normalisation constants in float32, ready to be saved."""
    return {
        name: for_saving(tensor, torch.float32 if name.startswith("normalise.") else dtype)
        for name, tensor in tensors.items()
    }
