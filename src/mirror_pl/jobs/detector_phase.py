"""Phase 2 and the linear probe: reals and fakes in, a detector out, from a bank or from another detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import DictConfig, OmegaConf

from mirror_pl.config.schema import DetectorTrainSettings, read_settings
from mirror_pl.detectors import DetectorConfig, HeadConfig, LoraConfig
from mirror_pl.detectors.checkpoint import find_backbone, load_bank, load_detector, read_checkpoint
from mirror_pl.detectors.config import from_mapping
from mirror_pl.detectors.lora import add_lora
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.detectors.variants import LINEAR_PROBE, variant_name
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.files import path_sha256
from mirror_pl.images import PreprocessSpec
from mirror_pl.jobs.phase import Phase, check_crop, starting_backbone
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

if TYPE_CHECKING:
    from mirror_pl.data.training_set import TrainingSet
    from mirror_pl.modules.trainable import TrainableModule

LAST_FILE, BEST_FILE = "last.ckpt", "best.ckpt"


class DetectorPhase(Phase):
    """Learns LoRA and the head around a bank; or goes on learning those of a detector that is given."""

    title: ClassVar[str] = "Phase 2"
    outputs: ClassVar[tuple[str, ...]] = (LAST_FILE, BEST_FILE)
    shown: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "bal_acc")
    settings: DetectorTrainSettings

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = settings = read_settings(cfg, DetectorTrainSettings)
        self.phase = phase = settings.phase
        self.lora = None if phase.lora_rank is None else LoraConfig(phase.lora_rank, phase.lora_alpha)
        self.memory_sha256: str | None = None
        head: Any = OmegaConf.to_container(cfg.detector.head, resolve=True)
        self.head = from_mapping(HeadConfig, head, where="detector.head")
        if settings.checkpoint is not None:
            if settings.memory_path is not None:
                raise ConfigError("checkpoint and memory_path: the checkpoint holds its bank; leave memory_path out")
            return
        if self.head.is_linear and self.lora is not None:
            raise ConfigError(
                "detector=linear_probe has a frozen backbone, and phase=detector gives it LoRA; use phase=probe, or add "
                "phase.lora_rank=null"
            )
        if self.head.needs_bank and settings.memory_path is None:
            raise ConfigError(
                "memory_path: not given; give the memory bank as memory_path=FILE (phase=memory learns one), a detector to "
                "go on training as checkpoint=FILE, or train without a bank by detector=direct"
            )
        if not self.head.needs_bank and settings.memory_path is not None:
            raise ConfigError(
                f"memory_path={settings.memory_path}: detector={cfg.detector.name} has no memory bank; leave memory_path out"
            )

    def check_images(self, images: TrainingSet) -> None:
        """Raise DataError unless there are images of both classes."""
        for label in (REAL, FAKE):
            if label not in images.labels:
                raise DataError(
                    f"data: no {LABEL_NAMES[label]} image, and a detector learns to tell the two classes apart; give "
                    f"data.{LABEL_NAMES[label]}=[FOLDER] or data.root=FOLDER, and leave data.labels out"
                )

    def load(self, crop_px: int) -> dict[str, Any]:
        """Load a detector; or backbone and bank, and draw LoRA and head."""
        if self.settings.checkpoint is not None:
            self._load_detector(Path(self.settings.checkpoint), crop_px)
        else:
            self._load_parts(crop_px)
        phase, backbone = self.phase, self.detector.backbone
        backbone.rescale_positions(phase.rope_rescale)
        if phase.rope_rescale is not None:
            self.detector.config = replace(self.detector.config, backbone=backbone.config)
        if phase.gradient_checkpointing:
            backbone.checkpoint_gradients()
        return {"backbone": self.weights, "memory_bank": self.memory_sha256}

    def _load_detector(self, checkpoint: Path, crop_px: int) -> None:
        folder = None if self.settings.backbone.path is None else Path(self.settings.backbone.path)
        detector = load_detector(checkpoint, backbone_folder=folder, merge=False)
        check_crop(crop_px, detector.backbone)
        if crop_px != detector.spec.crop_px:
            raise ConfigError(
                f"augment.crop_px: {checkpoint} looks at crops of {detector.spec.crop_px} px, training at {crop_px}; give "
                f"augment.crop_px={detector.spec.crop_px}"
            )
        if self.lora is not None and detector.config.lora is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.settings.seed)
                add_lora(detector.backbone, self.lora)
            detector.config = replace(detector.config, lora=self.lora)
        self.detector = detector
        self.source = find_backbone(read_checkpoint(checkpoint), folder)
        self.weights = path_sha256(checkpoint) if self.source is None else self.source.sha256

    def _load_parts(self, crop_px: int) -> None:
        phase, path = self.phase, self.settings.memory_path
        start = starting_backbone(self.settings.backbone, self.settings.seed)
        backbone, self.source, self.weights = start.backbone, start.source, start.weights
        check_crop(crop_px, backbone)
        bank = None
        if path is not None:
            if Path(path).is_file():  # hashed before it is loaded: one that changes in between is not what was asked for
                self.memory_sha256 = path_sha256(Path(path))
            bank = load_bank(Path(path), backbone.config, start.weights, phase.top_k, phase.drop_registers)
        config = DetectorConfig(
            backbone=backbone.config,
            lora=self.lora,
            memory_bank=None if bank is None else bank.bank.config,
            head=self.head,
            drop_registers=bank is not None and bank.drop_registers,
            preprocess=PreprocessSpec(crop_px=crop_px),
        )
        self.detector = untrained_detector(config, backbone, self.settings.seed, None if bank is None else bank.bank)

    def module_settings(self) -> dict[str, Any]:
        """Return where the frozen backbone's weights are, unless they go into the checkpoints."""
        return {"backbone": None if self.phase.self_contained else self.source}

    def save(self, folder: Path, module: TrainableModule, facts: dict[str, Any]) -> dict[str, Any]:
        """Say what the checkpoints are, which Lightning has written."""
        del module, facts
        files = [name for name in self.outputs if (folder / name).exists()]
        best = read_checkpoint(folder / BEST_FILE).training if BEST_FILE in files else None
        return {
            "memory": {"path": self.settings.memory_path, "sha256": self.memory_sha256},
            "started_from": self.settings.checkpoint,
            "checkpoints": {name: path_sha256(folder / name) for name in files},
            "best": best and {"step": best["step"], "bal_acc": best["validated"]},
        }


class ProbePhase(DetectorPhase):
    """Learns the head alone, and that is one layer; all else is as in Phase 2."""

    title: ClassVar[str] = "Linear probe"

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        if variant_name(self.head) != LINEAR_PROBE or self.lora is not None:
            raise ConfigError(
                "phase=probe learns detector=linear_probe with phase.lora_rank=null; leave both out, or give phase=detector"
            )
