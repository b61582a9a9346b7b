"""The Phase-1 file: a memory bank alone, in the published format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mirror_pl.detectors.checkpoint.files import CONFIG_KEY
from mirror_pl.detectors.checkpoint.published_names import published_bank_name
from mirror_pl.detectors.checkpoint.torch_file import for_saving, save_torch
from mirror_pl.detectors.config import DetectorConfig
from mirror_pl.detectors.memory_bank import MemoryBank


def save_bank(
    path: Path,
    bank: MemoryBank,
    config: DetectorConfig,
    weights: str,
    epoch: int,
    *,
    training: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> None:
    """Write a bank as the published training code does, whole or not at all; `load_bank` takes it.

    Beside what is published, the file says which backbone's features the bank was learnt from, and whether register tokens
    were among them.

    Args:
        path: Must not exist, but with `replace`.
        bank: The bank.
        config: Of the detector that it was trained in.
        weights: What tells the backbone's weights from others of the same architecture.
        epoch: Epochs it was trained for.
        training: How it was trained, in plain values.
        replace: Take the place of a file that is there.

    Raises:
        OutputError: If `path` exists or cannot be written.
    """
    tensors = {f"memory_bank.{name}": tensor for name, tensor in bank.state_dict().items()}
    content = bank_content(config, tensors, weights, training)
    ours = content.pop("state_dict")
    named = {published_bank_name(name.removeprefix("memory_bank.")): tensor for name, tensor in ours.items()}
    save_torch(path, {"model_state_dict": named, "epoch": epoch, **content}, replace=replace)


def bank_content(
    config: DetectorConfig, tensors: Mapping[str, Tensor], weights: str | None, training: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a file holds of a bank; its keys fit into a Lightning checkpoint too.

    Args:
        config: Of the detector that it was trained in.
        tensors: Of that detector, under our names.
        weights: What tells the backbone's weights from others of the same architecture; None does not say.
        training: How it was trained, in plain values.

    Returns:
        ``state_dict``, the bank's tensors under our names; ``memory_config`` as published; and ``mirror_pl``, which says
        whose features it was learnt from.
    """
    bank, origin = config.memory_bank, {"weights": weights} if weights is not None else {}
    assert bank is not None
    return {
        "state_dict": {name: for_saving(tensor) for name, tensor in tensors.items() if name.startswith("memory_bank.")},
        "memory_config": {
            "feature_dim": config.backbone.width,
            "mem_slots": bank.slots,
            "num_heads": bank.heads,
            "top_k": bank.top_k,
        },
        CONFIG_KEY: {
            "bank": {"backbone": str(config.backbone), "drop_registers": config.drop_registers, **origin},
            "training": dict(training or {}),
        },
    }
