"""The published detectors other than MIRROR, by name: what each is loaded with, and from what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from mirror_pl.detectors.bfree import BfreeDetector, load_bfree
from mirror_pl.detectors.checkpoint.names import live_names, our_name
from mirror_pl.detectors.checkpoint.read import RawCheckpoint, read_checkpoint
from mirror_pl.detectors.dda import DdaDetector, load_dda
from mirror_pl.detectors.detector_config import LoraConfig, from_mapping
from mirror_pl.detectors.linear_detector import LinearDetector, VitSize, check_depth, check_fit, filled
from mirror_pl.detectors.lora import merge_lora
from mirror_pl.detectors.univfd import UnivfdDetector, load_univfd
from mirror_pl.errors import CheckpointError, ConfigError, nearest, shown


@dataclass(frozen=True)
class Baseline:
    """A detector to compare with.

    Attributes:
        detector: Its class, which says title, licence and crops.
        load: Called with the checkpoint; and, by name, with `device` and `dtype`, `clip` if `needs_backbone`, `merge` if
            `has_adapters`, and `size` where another one than the published is asked for.
        files: What the checkpoint is, in one line.
        needs_backbone: Whether the backbone's weights are in a folder of their own.
        has_adapters: Whether there are any to merge.
    """

    detector: type[LinearDetector]
    load: Callable[..., LinearDetector]
    files: str
    needs_backbone: bool = False
    has_adapters: bool = False


BASELINES: Final[dict[str, Baseline]] = {
    "univfd": Baseline(
        UnivfdDetector, load_univfd, "fc_weights.pth, and the folder of openai/clip-vit-large-patch14", needs_backbone=True
    ),
    "dda": Baseline(DdaDetector, load_dda, "DDA_ckpt.pth", has_adapters=True),
    "bfree": Baseline(BfreeDetector, load_bfree, "the folder BFREE_dino2reg4, of config.yaml and model_epoch_best.pth"),
}


def load_baseline(
    name: str,
    checkpoint: str | Path,
    *,
    backbone_folder: str | Path | None = None,
    merge: bool = True,
    size: VitSize | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LinearDetector:
    """Load a published detector by its name, in eval mode.

    Args:
        name: One of `BASELINES`.
        checkpoint: Its published file or folder, or a file of our training, which holds all of it.
        backbone_folder: Where the backbone's weights are, for a detector whose published file does not hold them.
        merge: Fold adapters into the weights, where there are any.
        size: Of its backbone, where it is not the published one; UnivFD's folder says it itself.
        device: Where its tensors are put.
        dtype: Of the backbone's weights.

    Raises:
        ConfigError: If there is no such detector, or `backbone_folder` is missing or not asked for.
        CheckpointError: If a file is missing, damaged, unsafe or of another kind, or any tensor does not fit.
    """
    if name not in BASELINES:
        raise ConfigError(f"unknown detector {name!r}.{nearest(name, BASELINES)} Known: {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    if holds_all(Path(checkpoint)):
        return _rebuilt(read_checkpoint(Path(checkpoint)), name, merge=merge, device=device, dtype=dtype)
    if (backbone_folder is not None) != baseline.needs_backbone:
        wanted = "is missing" if baseline.needs_backbone else "is not asked for: the checkpoint holds the backbone"
        raise ConfigError(f"{name}: the backbone's folder {wanted}. Expected {baseline.files}")
    backbone = {"clip": backbone_folder} if baseline.needs_backbone else {}
    adapters = {"merge": merge} if baseline.has_adapters else {}
    sizes = {} if size is None else {"size": size}
    return baseline.load(checkpoint, device=device, dtype=dtype, **backbone, **adapters, **sizes)


def kind_of(raw: RawCheckpoint) -> str | None:
    """Return which of `BASELINES` a file of our training holds; None if it holds MIRROR, or is a file of another's."""
    title = raw.config.get("name") if isinstance(raw.config, Mapping) else None
    return next((name for name, baseline in BASELINES.items() if baseline.detector.title == title), None)


def holds_all(path: Path) -> bool:
    """Whether a file is one of our training, which holds the backbone too."""
    return path.is_file() and read_checkpoint(path).config is not None


def _rebuilt(
    raw: RawCheckpoint, name: str, *, merge: bool, device: torch.device | str, dtype: torch.dtype
) -> LinearDetector:
    kind = kind_of(raw)
    if kind != name:
        raise CheckpointError(f"checkpoint: {raw.path} holds another detector; give detector={kind or 'mirror'}")
    values: dict[str, Any] = dict(raw.config or {})
    try:
        size = from_mapping(VitSize, values.get("size", {}), "size")
        lora = from_mapping(LoraConfig, values["lora"], "lora") if "lora" in values else None
        projection = values.get("projection", 1)
        if type(projection) is not int or not 1 <= projection <= 2**14:
            raise ConfigError(f"projection must be a number of features, got {shown(projection)}")
    except ConfigError as error:
        raise CheckpointError(f"checkpoint: {raw.path} carries a description that is damaged: {error}") from error
    more = {"projection": projection} if "projection" in values else {}
    check_depth(raw.tensors, _LAYERS[name], size, raw.path, values["name"])

    make: Callable[..., LinearDetector] = BASELINES[name].detector

    def skeleton(adapters: LoraConfig | None) -> LinearDetector:
        with torch.device("meta"):
            detector = make(size=size, **more)
            if adapters is not None:
                detector.adapt(adapters)
        return detector

    detector = skeleton(lora)
    constants = {f"normalise.{name}" for name in detector.normalise.state_dict()}
    tensors = {name: tensor for name, tensor in raw.tensors.items() if name not in constants}
    shapes = {our_name(name): tensor.shape for name, tensor in detector.state_dict().items()}
    check_fit(tensors, {name: shape for name, shape in shapes.items() if name not in constants}, raw.path, values["name"])
    if merge and lora is not None:
        tensors, detector = merge_lora(tensors, lora, device), skeleton(None)
    live = live_names(detector)
    return filled(detector, {live[name]: tensor for name, tensor in tensors.items()}, device, dtype)


_LAYERS: Final = {"univfd": "backbone.vision_model.encoder.layers."} | dict.fromkeys(("dda", "bfree"), "backbone.layers.")
"""What is before the number of a layer in the names of tensors."""
