"""One way in for every kind of checkpoint: published files, our safetensors folder, Lightning checkpoints.

All or nothing. An adapter that silently stays at its initial zero looks like a merely weaker detector, so every tensor the
model has must be in the file, and every tensor in the file must have a place in the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.files import RawCheckpoint, read_checkpoint
from mirror_pl.detectors.checkpoint.names import BANK_NAMES, live_names, our_bank_name, our_name
from mirror_pl.detectors.checkpoint.signature import Signature
from mirror_pl.detectors.config import BackboneConfig, DetectorConfig, LoraConfig, MemoryBankConfig
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.detectors.lora import adapter_shapes, merge_lora
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import CheckpointError, ConfigError, name_list


def load_detector(
    checkpoint: str | Path,
    *,
    backbone: BackboneConfig | None = None,
    memory_path: str | Path | None = None,
    merge: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MirrorDetector:
    """Rebuild a detector from its file, in eval mode.

    Weights stay mapped from the file as long as nothing about them changes, and are read when first used; the file must not
    be written to in the meantime. Other ones go to their device and dtype tensor by tensor, without a second copy of all.

    Args:
        checkpoint: A published Phase-2 file (``checkpoint-h-cur.pth``, any envelope and either layout of transformers), a
            folder written by ``mirror_pl.convert``, or a Lightning checkpoint of this project.
        backbone: Its architecture. Needed only where the file does not carry its own and its shapes are those of no known
            backbone; where given, it must agree with the file.
        memory_path: A published Phase-1 file. A Phase-2 file holds the bank already; then the two must be equal.
        merge: Fold LoRA into the weights it adapts, which is faster and changes scores by float rounding only.
        device: Where its tensors are put.
        dtype: Of the backbone's weights. Bank, head and normalisation are float32 always: that is what they compute in.

    Raises:
        CheckpointError: If a file is missing, damaged, unsafe or of another kind; or any tensor is missing, unexpected or
            of the wrong shape, with its name and the backbone the file looks like.
    """
    tensors, config = read_detector(checkpoint, backbone=backbone, memory_path=memory_path)
    if merge:
        tensors, config = merged(tensors, config, device)
    return build_detector(tensors, config, device=device, dtype=dtype)


def read_detector(
    checkpoint: str | Path,
    *,
    backbone: BackboneConfig | None = None,
    memory_path: str | Path | None = None,
    key: str = "checkpoint",
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Read weights, under our names, and the config they belong to; see `load_detector`. Nothing is checked for fit yet.

    `key` is the setting that named the checkpoint, for messages.
    """
    raw = read_checkpoint(Path(checkpoint), key)
    tensors = {our_name(name): tensor for name, tensor in raw.tensors.items()}
    if len(tensors) != len(raw.tensors):
        raise CheckpointError(f"checkpoint: {raw.path} holds a tensor twice, under two names for the same thing")
    bank = None if memory_path is None else _read_bank(Path(memory_path))
    if not any(name.startswith("head.") for name in tensors):
        raise CheckpointError(_not_a_detector(raw))
    if bank is not None:
        tensors = _add_bank(tensors, bank, raw.path)
    if raw.config is not None:
        try:
            config = DetectorConfig.from_dict(raw.config)
        except ConfigError as error:
            raise CheckpointError(f"checkpoint: {raw.path} carries a config that is damaged: {error}") from error
        if backbone is not None and backbone != config.backbone:
            raise CheckpointError(
                f"checkpoint: {raw.path} carries the backbone {config.backbone}, but another was asked for: {backbone}. "
                "Leave backbone= out to use the one it carries"
            )
        return tensors, config
    return tensors, _published_config(tensors, raw.path, backbone, bank)


def merged(
    tensors: Mapping[str, Tensor], config: DetectorConfig, device: torch.device | str | None = None
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Fold LoRA into the weights and take it out of the config; a detector without LoRA comes back as it is.

    The weights are changed in place, after those that are adapted were moved to `device`, where one is given.

    Raises:
        CheckpointError: If an adapter misses a part, or any other tensor is missing, unexpected or of the wrong shape.
    """
    if config.lora is None:
        return dict(tensors), config
    without = replace(config, lora=None)
    shapes = _shapes(_skeleton(without))  # building one with adapters would take longer than all the rest
    _check_fit(tensors, shapes | adapter_shapes(shapes, config.lora), config)
    return merge_lora(tensors, config.lora, device), without


def build_detector(
    tensors: Mapping[str, Tensor],
    config: DetectorConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MirrorDetector:
    """Build a detector around `tensors`, given under our names, without initialising a weight.

    None is copied that is on its device and of its dtype already; see `load_detector` for which those are.

    Raises:
        CheckpointError: If any tensor is missing, unexpected or of the wrong shape.
    """
    detector = _skeleton(config)
    _check_fit(tensors, _shapes(detector), config)
    # The constants in the file are what the weights were trained with: the recipe says so too.
    mean, std = (tuple(tensors[f"normalise.{name}"].float().flatten().tolist()) for name in ("mean", "std"))
    if not torch.allclose(torch.tensor([*mean, *std]), torch.tensor([*config.preprocess.mean, *config.preprocess.std])):
        detector.spec = replace(config.preprocess, mean=mean, std=std)
        detector.config = replace(config, preprocess=detector.spec)
    live = live_names(detector)
    weights = {
        live[name]: tensor.to(device, dtype if name.startswith("backbone.") else torch.float32)
        for name, tensor in tensors.items()
    }
    detector.load_state_dict(weights, strict=True, assign=True)
    detector.backbone.restore_constants()
    return detector.requires_grad_(False).eval().to(device)  # the weights are there already; the constants follow


def _skeleton(config: DetectorConfig) -> MirrorDetector:
    """Return a detector whose tensors have shapes but no values."""
    with torch.device("meta"):
        return MirrorDetector(config)


def _shapes(skeleton: MirrorDetector) -> dict[str, torch.Size]:
    """Return the shapes of a detector's tensors, under our names."""
    return {our_name(name): tensor.shape for name, tensor in skeleton.state_dict().items()}


def _check_fit(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], config: DetectorConfig) -> None:
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    misshapen = [
        f"{name} (file {tuple(tensor.shape)}, detector {tuple(shapes[name])})"
        for name, tensor in tensors.items()
        if name in shapes and tensor.shape != shapes[name]
    ]
    if not (missing or unexpected or misshapen):
        return
    lines = [f"checkpoint: the file does not fit the detector ({config.backbone})"]
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            lines.append(f"  {len(names)} {what}: {name_list(names, 4)}")
    signature = Signature.of_tensors(tensors)
    if signature is not None:
        lines.append(f"  the file looks like {signature}")
        name = signature.known_as()
        if name and signature != Signature.of_config(config.backbone):
            lines.append(f"  use backbone={name}")
    raise CheckpointError("\n".join(lines))


def _published_config(
    tensors: Mapping[str, Tensor], path: Path, backbone: BackboneConfig | None, bank: RawCheckpoint | None
) -> DetectorConfig:
    """Derive the config of a published file, which carries none: defaults, and what its shapes tell."""
    signature = Signature.of_tensors(tensors)
    if backbone is None:
        name = None if signature is None else signature.known_as()
        if name is None:
            raise CheckpointError(
                f"checkpoint: the backbone of {path} is {signature or 'not recognisable'}; give its Hugging Face folder "
                "as backbone.path=FOLDER, or its name as backbone=NAME"
            )
        backbone = known_backbone(name)
    has_lora = any(name.endswith((".lora_a", ".lora_b")) for name in tensors)
    memory = tensors.get("memory_bank.memory")
    sizes = {} if bank is None else bank.memory_config
    default = MemoryBankConfig()
    return DetectorConfig(
        backbone=backbone,
        lora=LoraConfig() if has_lora else None,
        memory_bank=MemoryBankConfig(
            slots=default.slots if memory is None else memory.shape[0],
            heads=int(sizes.get("num_heads", default.heads)),
            top_k=int(sizes.get("top_k", default.top_k)),
        ),
    )


def _read_bank(path: Path) -> RawCheckpoint:
    raw = read_checkpoint(path, "memory_path")
    tensors = {our_bank_name(name): tensor for name, tensor in raw.tensors.items()}
    if not set(tensors) <= BANK_NAMES or "memory_bank.memory" not in tensors:
        raise CheckpointError(f"memory_path: {path} holds no memory bank; expected a Phase-1 file (mirror_phase1.pth)")
    return replace(raw, tensors=tensors)


def _add_bank(tensors: Mapping[str, Tensor], bank: RawCheckpoint, path: Path) -> dict[str, Tensor]:
    """Add the bank's tensors to a detector's; those it holds already must be equal, since Phase 2 keeps the bank frozen."""
    different = [
        name
        for name, tensor in bank.tensors.items()
        # A converted checkpoint may hold it rounded to bfloat16.
        if name in tensors and not torch.equal(tensor.to(tensors[name].dtype), tensors[name])
    ]
    if different:
        raise CheckpointError(
            f"memory_path: {bank.path} is another bank than the one {path} was trained with: {name_list(different)} "
            "differ. Leave memory_path out: the checkpoint holds its bank"
        )
    return {**bank.tensors, **tensors}


def _not_a_detector(raw: RawCheckpoint) -> str:
    names = [our_bank_name(name) for name in raw.tensors]
    if "memory_bank.memory" in names:
        return (
            f"checkpoint: {raw.path} is a Phase-1 memory bank, no detector; give it as memory_path=FILE and the detector "
            "(Phase 2) as checkpoint=FILE"
        )
    return f"checkpoint: {raw.path} holds no detector: no head among its tensors ({name_list(raw.tensors, 4)})"
