"""What the phases of training differ in; `training` does what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import DictConfig

from mirror_pl.config.schema import TrainSettings
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint import BackboneSource, load_backbone
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.errors import ConfigError

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.config.schema import BackboneSettings
    from mirror_pl.data import TrainingDataModule
    from mirror_pl.data.training_set import TrainingSet
    from mirror_pl.detectors import Detector
    from mirror_pl.modules.trainable import TrainableModule


class Phase(ABC):
    """One phase of training, from its settings to its files.

    It is made from the config, which checks all settings that can be checked without data and weights; then `load` is called
    once.

    Attributes:
        title: What is said of it on the screen.
        outputs: Files that it writes into the run folder.
        shown: Figures to be shown at the end, where they were logged, without what is before their slash.
        settings: Of the command.
        detector: In training, from `load` on.
        source: The folder that the frozen backbone's weights are from, from `load` on; None where they are random, or the
            checkpoint's own.
        weights: What tells them from others, from `load` on.
    """

    title: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    shown: ClassVar[tuple[str, ...]] = ()
    settings: TrainSettings
    detector: Detector
    source: BackboneSource | None
    weights: str

    @abstractmethod
    def __init__(self, cfg: DictConfig) -> None: ...

    def check_images(self, images: TrainingSet) -> None:
        """Raise DataError if these images cannot be trained on."""
        del images

    @abstractmethod
    def load(self, crop_px: int) -> dict[str, Any]:
        """Load the weights that training starts from.

        Args:
            crop_px: Side of the training crops.

        Returns:
            What tells them from others: a training is gone on with from the same only.

        Raises:
            MirrorError: If they are missing, damaged, or do not fit together.
        """

    def module_settings(self) -> dict[str, Any]:
        """Return arguments of the module that its config does not have."""
        return {}

    def prepare(self, data: TrainingDataModule, trainer: L.Trainer) -> None:
        """Do what comes after `load` and before any image is read, in every process, resumed or not."""
        del data, trainer

    def begin(self, data: TrainingDataModule, device: torch.device) -> None:
        """Do what comes before the first step, where no run is resumed."""
        del data, device

    @abstractmethod
    def save(self, folder: Path, module: TrainableModule, facts: dict[str, Any]) -> dict[str, Any]:
        """Write what was learnt, in place of files of the same names, and return what ``run.json`` is to say of it.

        Args:
            folder: The run folder, which holds the checkpoints.
            module: What was trained.
            facts: Where it comes from; part of the files.
        """


@dataclass(frozen=True)
class StartingBackbone:
    """What training starts from.

    Attributes:
        backbone: Frozen, in eval mode.
        source: The folder that its weights are from; None where they are random.
        weights: What tells them from others.
    """

    backbone: Backbone
    source: BackboneSource | None
    weights: str


def starting_backbone(settings: BackboneSettings, seed: int) -> StartingBackbone:
    """Load the backbone; only one that is for trying things out may have random weights, drawn from `seed`.

    Raises:
        ConfigError: If ``backbone.path`` is not given, and the backbone is none of `RANDOM_BACKBONES`.
        CheckpointError: If the folder is no backbone.
    """
    if settings.path is not None:
        source = BackboneSource.of(Path(settings.path))
        return StartingBackbone(load_backbone(source.path), source, source.sha256)
    if settings.name not in RANDOM_BACKBONES:
        raise ConfigError(
            "backbone.path: not given; training starts from the weights in a Hugging Face folder: backbone.path=FOLDER "
            f"(backbone={RANDOM_BACKBONES[0]} tries things out with random ones)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(known_backbone(settings.name)).requires_grad_(False).eval()
    return StartingBackbone(backbone, None, f"random, seed {seed}")


RANDOM_BACKBONES = ("tiny", "miniature")
"""Backbones that are trained with random weights where no folder is given."""


def check_crop(crop_px: int, backbone: Backbone) -> None:
    """Raise ConfigError unless a crop is made of whole patches."""
    patch = backbone.config.patch_px
    if crop_px % patch:
        near = max(patch, round(crop_px / patch) * patch)
        raise ConfigError(f"augment.crop_px must be a multiple of the backbone's patch, {patch}, got {crop_px}; use {near}")
