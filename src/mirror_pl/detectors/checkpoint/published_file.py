"""The Phase-2 file: a detector in the published format, for the published code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.files import CONFIG_KEY
from mirror_pl.detectors.checkpoint.published_names import published_names
from mirror_pl.detectors.checkpoint.save import rounded
from mirror_pl.detectors.checkpoint.torch_file import save_torch
from mirror_pl.detectors.config import DetectorConfig, HeadConfig, LoraConfig, MemoryBankConfig
from mirror_pl.images.spec import PreprocessSpec


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
