"""One way in for every kind of checkpoint: published files, our safetensors folder, the files of our training.

All or nothing. An adapter that silently stays at its initial zero looks like a merely weaker detector, so every tensor the
model has must be in the file, and every tensor in the file must have a place in the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirror_pl.calibration import Calibration, read_calibration
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder, read_backbone_weights
from mirror_pl.detectors.checkpoint.bank import read_bank
from mirror_pl.detectors.checkpoint.fit import misfits, missing_layers
from mirror_pl.detectors.checkpoint.frozen_backbone import find_backbone
from mirror_pl.detectors.checkpoint.names import live_names, our_bank_name, our_name, with_our_names
from mirror_pl.detectors.checkpoint.published import published_config
from mirror_pl.detectors.checkpoint.read import RawCheckpoint, read_checkpoint
from mirror_pl.detectors.detector_config import BackboneConfig, DetectorConfig
from mirror_pl.detectors.known_backbones import Signature, known_backbone
from mirror_pl.detectors.lora import adapter_shapes, merge_lora
from mirror_pl.detectors.mapped import MappedFiles
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import CheckpointError, ConfigError, name_list, shown
from mirror_pl.files import kept_sha256
from mirror_pl.hub import local_path
from mirror_pl.images.spec import PreprocessSpec


def load_mirror(
    checkpoint: str | Path,
    *,
    backbone: BackboneConfig | str | None = None,
    backbone_folder: str | Path | None = None,
    memory_path: str | Path | None = None,
    merge: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MirrorDetector:
    """Do what `MirrorDetector.load` says."""
    checkpoint = local_path(checkpoint) if isinstance(checkpoint, str) else checkpoint
    backbone = known_backbone(backbone) if isinstance(backbone, str) else backbone
    folder = None if backbone_folder is None else Path(backbone_folder)
    tensors, config = read_detector(checkpoint, backbone=backbone, backbone_folder=folder, memory_path=memory_path)
    if merge:
        tensors, config = merged(tensors, config, device, dtype)
    return build_detector(tensors, config, device=device, dtype=dtype)


def calibration_for(
    detector: str,
    checkpoint: str | Path,
    path: str | Path | None,
    abstain: float | None,
    protocol: Mapping[str, Any] | None = None,
) -> Calibration | None:
    """Read a detector's calibration; None where there is none.

    Args:
        detector: Its name.
        checkpoint: Its weights.
        path: The calibration's file.
        abstain: Error rate in each class; None for no band.
        protocol: Which crops are scored, and how they become one score, where that is known.

    Raises:
        CheckpointError: If the file is missing or damaged.
        ConfigError: If it was fitted on another detector, or has no band for that rate.
    """
    if path is None:
        if abstain is not None:
            raise ConfigError("abstain: it needs a calibration, which has the bands; give calibration=FILE")
        return None
    found = read_calibration(Path(path)).with_abstention(abstain)
    found.fitted_on.check_detector(detector, kept_sha256(Path(checkpoint)), protocol)
    return found


def read_detector(
    checkpoint: str | Path | RawCheckpoint,
    *,
    backbone: BackboneConfig | None = None,
    backbone_folder: Path | None = None,
    memory_path: str | Path | None = None,
    key: str = "checkpoint",
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Read weights, under our names, and the config they belong to; see `MirrorDetector.load`. Fit is not checked yet.

    `checkpoint` may be one that `read_checkpoint` has opened; `key` is the setting that named it, for messages.
    """
    raw = checkpoint if isinstance(checkpoint, RawCheckpoint) else read_checkpoint(Path(checkpoint), key)
    tensors = with_our_names(raw.tensors)
    if len(tensors) != len(raw.tensors):
        raise CheckpointError(f"checkpoint: {raw.path} holds a tensor twice, under two names for the same thing")
    bank = None if memory_path is None else read_bank(Path(memory_path))
    if isinstance(raw.config, Mapping) and "name" in raw.config:
        raise CheckpointError(
            f"{key}: {raw.path} holds {shown(raw.config['name'])}, no MIRROR; other detectors are loaded by their names, as "
            "with detector=dda"
        )
    if not any(name.startswith("head.") for name in tensors):
        raise CheckpointError(_not_a_detector(raw))
    _check_constants(tensors, raw.path)
    if bank is not None:
        tensors = _add_bank(tensors, bank, raw.path)
    source = find_backbone(raw, backbone_folder, key)
    if source is not None:
        tensors = read_backbone_weights(source.path) | tensors
    elif backbone is None and backbone_folder is not None:
        backbone = read_backbone_folder(backbone_folder)
    if raw.config is not None:
        try:
            config = DetectorConfig.from_dict(raw.config)
        except ConfigError as error:
            raise CheckpointError(f"checkpoint: {raw.path} carries a config that is damaged: {error}") from error
        # How position coordinates are scaled at random is a matter of training, which no name or folder tells.
        if backbone is not None and replace(backbone, rope_rescale=None) != replace(config.backbone, rope_rescale=None):
            raise CheckpointError(
                f"checkpoint: {raw.path} carries the backbone {config.backbone}, but another was asked for: {backbone}. "
                "Leave backbone= out to use the one it carries"
            )
        return tensors, config
    try:
        return tensors, published_config(tensors, raw.path, backbone, {} if bank is None else bank.memory_config)
    except ConfigError as error:
        raise CheckpointError(f"checkpoint: {raw.path} holds no detector that can be built: {error}") from error


def _check_constants(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError for constants of the normalisation that no recipe can have."""
    names = [name for name in ("mean", "std") if f"normalise.{name}" in tensors]
    constants: Any = {name: tuple(tensors[f"normalise.{name}"].flatten()[:3].tolist()) for name in names}
    try:
        replace(PreprocessSpec(), **constants)
    except ConfigError as error:
        raise CheckpointError(f"checkpoint: {path} is damaged: its normalisation's {error}") from error


def merged(
    tensors: Mapping[str, Tensor],
    config: DetectorConfig,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Fold LoRA into the weights and take it out of the config; a detector without LoRA comes back as it is.

    Those that are adapted are changed in place, or go to `device` and `dtype`, where these are given; see `merge_lora`.

    Raises:
        CheckpointError: If an adapter misses a part, or any other tensor is missing, unexpected or of the wrong shape.
    """
    if config.lora is None:
        return dict(tensors), config
    without = replace(config, lora=None)
    shapes = _shapes(_skeleton(tensors, without))  # building one with adapters would take longer than all the rest
    _check_fit(tensors, shapes | adapter_shapes(shapes, config.lora), config)
    return merge_lora(tensors, config.lora, device, dtype), without


def build_detector(
    tensors: Mapping[str, Tensor],
    config: DetectorConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MirrorDetector:
    """Build a detector around `tensors`, given under our names, without initialising a weight.

    None is copied that is on its device and of its dtype already; see `MirrorDetector.load` for which those are.

    Raises:
        CheckpointError: If any tensor is missing, unexpected or of the wrong shape.
    """
    detector = _skeleton(tensors, config)
    _check_fit(tensors, _shapes(detector), config)
    # The constants in the file are what the weights were trained with: the recipe says so too.
    mean, std = (tuple(tensors[f"normalise.{name}"].float().flatten().tolist()) for name in ("mean", "std"))
    if not torch.allclose(torch.tensor([*mean, *std]), torch.tensor([*config.preprocess.mean, *config.preprocess.std])):
        detector.spec = replace(config.preprocess, mean=mean, std=std)
        detector.config = replace(config, preprocess=detector.spec)
    live, files = live_names(detector), MappedFiles()
    weights = {
        live[name]: files.converted(tensor, device, dtype if name.startswith("backbone.") else torch.float32)
        for name, tensor in tensors.items()
    }
    detector.load_state_dict(weights, strict=True, assign=True)
    detector.backbone.restore_constants()
    return detector.requires_grad_(False).eval().to(device)  # the weights are there already; the constants follow


def _skeleton(tensors: Mapping[str, Tensor], config: DetectorConfig) -> MirrorDetector:
    """Return a detector for `tensors` whose own have shapes but no values."""
    _refuse(missing_layers(tensors, "backbone.layers.", config.backbone.depth), tensors, config)
    with torch.device("meta"):
        return MirrorDetector(config)


def _shapes(skeleton: MirrorDetector) -> dict[str, torch.Size]:
    """Return the shapes of a detector's tensors, under our names."""
    return {our_name(name): tensor.shape for name, tensor in skeleton.state_dict().items()}


def _check_fit(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], config: DetectorConfig) -> None:
    _refuse(misfits(tensors, shapes), tensors, config)


def _refuse(problems: list[str], tensors: Mapping[str, Tensor], config: DetectorConfig) -> None:
    if not problems:
        return
    lines = [f"checkpoint: the file does not fit the detector ({config.backbone})", *problems]
    signature = Signature.of_tensors(tensors)
    if signature is not None:
        lines.append(f"  the file looks like {signature}")
        name = signature.known_as()
        if name and signature != Signature.of_config(config.backbone):
            lines.append(f"  use backbone={name}")
    raise CheckpointError("\n".join(lines))


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
    return (
        f"checkpoint: {raw.path} holds no MIRROR: no head among its tensors ({name_list(raw.tensors, 4)}). Other detectors' "
        "files are evaluated by their names, as with detector=dda"
    )
