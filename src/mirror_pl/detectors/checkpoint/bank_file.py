"""The Phase-1 file: a memory bank alone, in the published format."""

from __future__ import annotations

from pathlib import Path

import torch

from mirror_pl.detectors.memory_bank import MemoryBank
from mirror_pl.errors import OutputError
from mirror_pl.files import whole_file

_PUBLISHED = {"q.": "q_proj.", "k.": "k_proj.", "v.": "v_proj.", "out.": "out_proj."}


def save_bank(path: Path, bank: MemoryBank, epoch: int, *, replace: bool = False) -> None:
    """Write a bank as the published training code does, whole or not at all; `load_detector` takes it as `memory_path`.

    Args:
        path: Must not exist, but with `replace`.
        bank: The bank.
        epoch: Epochs it was trained for.
        replace: Take the place of a file that is there.

    Raises:
        OutputError: If `path` exists or cannot be written.
    """
    if path.exists() and not replace:
        raise OutputError(f"{path} exists already; nothing is overwritten")
    slots, width = bank.memory.shape
    config = bank.config
    content = {
        "model_state_dict": {_published(name): tensor.detach().cpu() for name, tensor in bank.state_dict().items()},
        "epoch": epoch,
        "memory_config": {
            "feature_dim": width,
            "mem_slots": slots,
            "num_heads": config.heads,
            "top_k": config.top_k,
        },
    }
    with whole_file(path) as temporary:
        torch.save(content, temporary)


def _published(name: str) -> str:
    for ours, published in _PUBLISHED.items():
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    return name
