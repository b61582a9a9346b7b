"""Phase 1: real images in, a memory bank out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import DictConfig
from torch import Tensor

from mirror_pl.config.schema import MemoryTrainSettings, read_settings
from mirror_pl.data.features import FeatureCache, FeatureShape, check_room, features_folder, make_features
from mirror_pl.detectors.checkpoint import save_bank
from mirror_pl.detectors.detector_config import DetectorConfig, MemoryBankConfig
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import ConfigError
from mirror_pl.files import path_sha256
from mirror_pl.images import PreprocessSpec
from mirror_pl.jobs.phase import Phase, check_crop, starting_backbone
from mirror_pl.modules.bank_init import TOKENS_PER_SLOT, BankInit, check_init, frozen_tokens, init_from_features

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.data import TrainingDataModule
    from mirror_pl.data.batch import Batch
    from mirror_pl.detectors import MirrorDetector
    from mirror_pl.modules.trainable import TrainableModule

BANK_FILE = "memory_bank.pth"


class MemoryPhase(Phase):
    """Learns a bank around a frozen backbone."""

    title: ClassVar[str] = "Phase 1"
    outputs: ClassVar[tuple[str, ...]] = (BANK_FILE,)
    shown: ClassVar[tuple[str, ...]] = (
        "reconstruction", "explained", "orthogonality", "orthogonality_floor", "dead_slots", "usage_entropy",
    )  # fmt: skip
    settings: MemoryTrainSettings
    detector: MirrorDetector

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = read_settings(cfg, MemoryTrainSettings)
        phase = self.settings.phase
        for name in ("checkpoint", "memory_path", "validation"):  # of the other phases
            if cfg[name]:
                raise ConfigError(f"{name}: phase=memory does not use it; leave it out, or give another phase")
        self.bank = MemoryBankConfig(phase.slots, phase.heads, phase.top_k)
        check_init(phase.init)
        self.init: BankInit = phase.init  # type: ignore[assignment]

    def load(self, crop_px: int) -> dict[str, Any]:
        """Load the backbone; the bank is drawn."""
        start = starting_backbone(self.settings.backbone, self.settings.seed)
        backbone, self.source, self.weights = start.backbone, start.source, start.weights
        check_crop(crop_px, backbone)
        config = DetectorConfig(
            backbone=backbone.config,
            lora=None,
            memory_bank=self.bank,
            drop_registers=self.settings.phase.drop_registers,
            preprocess=PreprocessSpec(crop_px=crop_px),
        )
        self.detector = untrained_detector(config, backbone, self.settings.seed)
        return {"backbone": self.weights}

    def module_settings(self) -> dict[str, Any]:
        """Return what tells the backbone's weights from others, and where they are."""
        return {"weights": self.weights, "backbone": self.source}

    def prepare(self, data: TrainingDataModule, trainer: L.Trainer) -> None:
        """Find the features of all images in ``phase.feature_cache``, or compute and keep them there.

        Raises:
            ConfigError: If crops are drawn by chance; or if features are to be computed by one of several processes.
            DataError: If those that are there are damaged.
            OutputError: If they cannot be written.
        """
        parent = self.settings.phase.feature_cache
        if parent is None:
            return
        if not data.augment.is_fixed:
            raise ConfigError(
                "phase.feature_cache: features are kept only where every epoch sees the same pixels, and crops are drawn by "
                "chance; add augment=fixed, or leave phase.feature_cache out"
            )
        now = partial(
            features_folder,
            *(Path(parent), data.training_set, data.augment, self.detector.config, self.weights, str(trainer.precision)),
        )
        folder = now()
        if not folder.exists():
            if trainer.world_size > 1:
                raise ConfigError(
                    f"phase.feature_cache: {folder} does not exist, and one process has to make it; make it first with "
                    "trainer.devices=1 (phase.epochs=1 will do), then start again"
                )
            self._make_features(folder, data, trainer, lambda: now() == folder)
        data.use_features(FeatureCache(folder))

    def _make_features(
        self, folder: Path, data: TrainingDataModule, trainer: L.Trainer, still_the_same: Callable[[], bool]
    ) -> None:
        shape = FeatureShape.of(self.detector.config, len(data.training_set))
        check_room(folder, shape)
        say = partial(print, flush=True)
        say(f"Keeping the features in {folder}: {shape}")
        device = trainer.strategy.root_device
        self.detector.to(device)

        def tokens_of(batch: Batch) -> Tensor:
            # As Lightning does in a training step.
            with torch.autocast(device.type, torch.bfloat16, enabled=trainer.precision == "bf16-mixed"):
                return frozen_tokens(self.detector, batch, device)

        make_features(folder, shape, data.every_image(), tokens_of, still_the_same, say)

    def begin(self, data: TrainingDataModule, device: torch.device) -> None:
        """Take the prototypes from features, if they are not to be drawn."""
        # Every image has at least one token; how many it has is known when the first is seen.
        batches = data.first_batches(self.bank.slots * TOKENS_PER_SLOT)
        init_from_features(self.detector, batches, self.init, self.settings.seed, device)

    def save(self, folder: Path, module: TrainableModule, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the bank as the published Phase-1 file."""
        file, config = folder / BANK_FILE, self.detector.config
        epochs = module.current_epoch
        save_bank(file, self.detector.memory_bank, config, self.weights, epochs, training=facts, replace=True)
        return {"bank": {"path": BANK_FILE, "sha256": path_sha256(file)}}
