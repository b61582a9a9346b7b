"""The Phase-1 file: a memory bank alone, in the published format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    slots, width = bank.memory.shape
    content = {
        "model_state_dict": {published_bank_name(name): for_saving(tensor) for name, tensor in bank.state_dict().items()},
        "epoch": epoch,
        "memory_config": {
            "feature_dim": width,
            "mem_slots": slots,
            "num_heads": bank.config.heads,
            "top_k": bank.config.top_k,
        },
        CONFIG_KEY: {
            "bank": {
                "backbone": str(config.backbone),
                "weights": weights,
                "drop_registers": config.drop_registers,
            },
            "training": dict(training or {}),
        },
    }
    save_torch(path, content, replace=replace)
