"""Phase 1: real images in, a memory bank out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import DictConfig

from mirror_pl.config.settings import MemoryTrainSettings, read_settings
from mirror_pl.detectors.checkpoint import save_bank
from mirror_pl.detectors.config import DetectorConfig, MemoryBankConfig
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.experiment.bank_init import TOKENS_A_SLOT, BankInit, check_init, init_from_features
from mirror_pl.experiment.memory_bank_module import BankTraining, MemoryBankModule
from mirror_pl.files import path_sha256
from mirror_pl.images import PreprocessSpec
from mirror_pl.jobs.phase import Phase, check_crop, starting_backbone

if TYPE_CHECKING:
    from mirror_pl.experiment.training_data_module import TrainingDataModule

BANK_FILE = "memory_bank.pth"


class MemoryPhase(Phase):
    """Learns a bank around a frozen backbone."""

    title: ClassVar[str] = "Phase 1"
    outputs: ClassVar[tuple[str, ...]] = (BANK_FILE,)
    shown: ClassVar[tuple[str, ...]] = (
        "reconstruction", "explained", "orthogonality", "orthogonality_floor", "dead_slots", "usage_entropy",
    )  # fmt: skip
    settings: MemoryTrainSettings

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = read_settings(cfg, MemoryTrainSettings)
        phase = self.settings.phase
        self.drop_registers = phase.drop_registers
        self.bank = MemoryBankConfig(phase.slots, phase.heads, phase.top_k)
        check_init(phase.init)
        self.init: BankInit = phase.init  # type: ignore[assignment]
        self.epochs = phase.epochs
        self.training = BankTraining(
            phase.epochs,
            phase.learning_rate,
            phase.weight_decay,
            phase.orthogonality,
            phase.loss_form,  # type: ignore[arg-type]
        )

    def load(self, crop_px: int) -> None:
        """Load the backbone; the bank is drawn."""
        backbone, self.backbone_folder = starting_backbone(self.settings.backbone, self.settings.seed)
        check_crop(crop_px, backbone)
        self.config = DetectorConfig(
            backbone=backbone.config,
            lora=None,
            memory_bank=self.bank,
            drop_registers=self.drop_registers,
            preprocess=PreprocessSpec(crop_px=crop_px),
        )
        self.detector = untrained_detector(self.config, backbone, self.settings.seed)

    def begin(self, data: TrainingDataModule, device: torch.device) -> None:
        """Take the prototypes from features, if they are not to be drawn."""
        # Every image has at least one token; how many it has is known when the first is seen.
        batches = data.first_batches(self.bank.slots * TOKENS_A_SLOT)
        init_from_features(self.detector, batches, self.init, self.settings.seed, device)

    def module(self, steps_an_epoch: int) -> MemoryBankModule:
        """Return the module that trains the bank."""
        return MemoryBankModule(self.detector, self.training, steps_an_epoch, self.settings.seed)

    def save(self, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the bank as the published Phase-1 file."""
        file = folder / BANK_FILE
        save_bank(file, self.detector.memory_bank, self.config, self.epochs, training=facts, replace=True)
        return {"bank": {"path": BANK_FILE, "sha256": path_sha256(file)}}
