"""A memory bank's file, in the format of the published Phase 1: written after Phase 1, read before Phase 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mirror_pl.detectors.checkpoint.names import BANK_NAMES, our_bank_name
from mirror_pl.detectors.checkpoint.published import published_bank_name
from mirror_pl.detectors.checkpoint.read import CONFIG_KEY, RawCheckpoint, read_checkpoint
from mirror_pl.detectors.checkpoint.torch_file import for_saving, save_torch
from mirror_pl.detectors.detector_config import BackboneConfig, DetectorConfig, MemoryBankConfig
from mirror_pl.detectors.memory_bank import MemoryBank
from mirror_pl.errors import CheckpointError, ConfigError, shown


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


@dataclass(frozen=True)
class LoadedBank:
    """A bank, and what it takes to ask it about features.

    Attributes:
        bank: Frozen, in eval mode.
        drop_registers: Whether register tokens are kept away from it.
    """

    bank: MemoryBank
    drop_registers: bool


def load_bank(
    path: Path,
    backbone: BackboneConfig,
    weights: str | None = None,
    top_k: int | None = None,
    drop_registers: bool | None = None,
) -> LoadedBank:
    """Load a bank.

    Args:
        path: A published Phase-1 file, or one that training wrote.
        backbone: Whose features it will be asked about.
        weights: What tells the weights of that backbone from others, as `save_bank` was given it; None does not ask.
        top_k: Slots kept per row; None keeps as many as when it was trained, or as published where the file does not say.
        drop_registers: Keep register tokens away from it; None does as when it was trained, or as published.

    Raises:
        CheckpointError: If the file is missing, damaged or no bank, or was learnt from other features.
        ConfigError: If `top_k` is out of range.
    """
    raw = read_bank(path)
    memory = raw.tensors["memory_bank.memory"]
    if memory.ndim != 2:
        raise CheckpointError(f"memory_path: {path} is damaged: its prototypes have the shape {tuple(memory.shape)}")
    slots, width = memory.shape
    origin = raw.bank
    if width != backbone.width:
        raise CheckpointError(
            f"memory_path: {path} is a bank of {width} features, the backbone ({backbone}) has {backbone.width}; give the "
            "bank that was learnt with this backbone, or learn one with phase=memory"
        )
    for what, known in (("backbone", str(backbone)), ("weights", weights)):
        if known is not None and origin.get(what, known) != known:
            there = origin[what] if isinstance(origin[what], str) else shown(origin[what])
            raise CheckpointError(
                f"memory_path: {path} was learnt from the features of another backbone: {what} {there}, here "
                f"{known}. Give the bank that was learnt with this one, or learn one with phase=memory"
            )
    sizes, published = raw.memory_config, MemoryBankConfig()
    heads, kept = sizes.get("num_heads", published.heads), sizes.get("top_k", published.top_k)
    try:
        config = MemoryBankConfig(slots, heads, kept)
    except ConfigError as error:
        raise CheckpointError(f"memory_path: {path} is damaged: {error}") from error
    if width % heads:
        raise CheckpointError(f"memory_path: {path} is damaged: a bank of {width} features with {heads} heads")
    if top_k is not None:
        config = replace(config, top_k=top_k)
    bank = MemoryBank(width, config)
    tensors = {name.removeprefix("memory_bank."): tensor for name, tensor in raw.tensors.items()}
    shapes = {name: tensor.shape for name, tensor in bank.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise CheckpointError(f"memory_path: {path} is damaged: expected tensors of the shapes {shapes}")
    bank.load_state_dict(tensors)
    registers = bool(origin.get("drop_registers", False)) if drop_registers is None else drop_registers
    return LoadedBank(bank.requires_grad_(False).eval(), registers)


def read_bank(path: Path) -> RawCheckpoint:
    """Read a Phase-1 file; its tensors come under our names.

    Raises:
        CheckpointError: If it is missing, damaged, or holds anything but a bank.
    """
    raw = read_checkpoint(path, "memory_path")
    tensors = {our_bank_name(name): tensor for name, tensor in raw.tensors.items()}
    if not set(tensors) <= BANK_NAMES or "memory_bank.memory" not in tensors:
        raise CheckpointError(f"memory_path: {path} holds no memory bank; expected a Phase-1 file (mirror_phase1.pth)")
    return replace(raw, tensors=tensors)
