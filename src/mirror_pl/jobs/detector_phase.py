"""Phase 2: a memory bank, reals and fakes in, a detector out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from mirror_pl.config.schema import DetectorTrainSettings, read_settings
from mirror_pl.config.validation import build_validation
from mirror_pl.detectors.checkpoint import load_bank, save_checkpoint
from mirror_pl.detectors.config import DetectorConfig, HeadConfig, LoraConfig, from_mapping
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.experiment.detector_training_module import DetectorTraining, DetectorTrainingModule
from mirror_pl.experiment.validation import Validation, best, has_stalled
from mirror_pl.files import path_sha256
from mirror_pl.images import PreprocessSpec
from mirror_pl.jobs.phase import Phase, check_crop, starting_backbone
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.experiment.training_module import TrainingModule
    from mirror_pl.experiment.training_set import TrainingSet

LAST_FILE, BEST_FILE = "last.ckpt", "best.ckpt"


class DetectorPhase(Phase):
    """Learns LoRA and a head around a frozen bank."""

    title: ClassVar[str] = "Phase 2"
    outputs: ClassVar[tuple[str, ...]] = (LAST_FILE, BEST_FILE)
    shown: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "bal_acc")
    settings: DetectorTrainSettings

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = settings = read_settings(cfg, DetectorTrainSettings)
        self.phase = phase = settings.phase
        self.epochs = phase.epochs
        self.training = DetectorTraining(
            phase.epochs,
            phase.learning_rate,
            phase.warm_up_epochs,
            phase.last_learning_rate,
            phase.weight_decay,
            phase.label_smoothing,
            phase.retrieval_gradient,
        )
        head: Any = OmegaConf.to_container(cfg.detector.head, resolve=True)
        self.head = from_mapping(HeadConfig, head, where="detector.head")
        self.lora = None if phase.lora_rank is None else LoraConfig(phase.lora_rank, phase.lora_alpha)
        if self.head.is_linear and self.lora is not None:
            raise ConfigError(
                "detector=linear_probe has a frozen backbone, and phase=detector gives it LoRA; use phase=probe, or add "
                "phase.lora_rank=null"
            )
        if self.head.needs_bank and settings.memory_path is None:
            raise ConfigError(
                "memory_path: not given; give the memory bank as memory_path=FILE (phase=memory learns one), or train "
                "without one by detector=direct"
            )
        if not self.head.needs_bank and settings.memory_path is not None:
            raise ConfigError(
                f"memory_path={settings.memory_path}: detector={cfg.detector.name} has no memory bank; leave memory_path out"
            )
        self.validation = build_validation(cfg.validation, settings.num_workers, f"{cfg.paths.outputs}/.index")
        if phase.patience is not None and not self.validation:
            raise ConfigError("phase.patience: there is no validation set; add +validation.NAME=FOLDER, or leave it out")

    def check_images(self, images: TrainingSet) -> None:
        """Raise DataError unless there are images of both classes."""
        for label in (REAL, FAKE):
            if label not in images.labels:
                raise DataError(
                    f"data: no {LABEL_NAMES[label]} image, and a detector learns to tell the two classes apart; give "
                    f"data.{LABEL_NAMES[label]}=[FOLDER] or data.root=FOLDER, and leave data.labels out"
                )

    def belongs_to(self) -> dict[str, Any]:
        """Return what tells backbone, bank and validation sets from others."""
        return {
            "backbone": self.weights,
            "memory_bank": self.memory_sha256,
            "validation": {name: data.index.fingerprint() for name, data in self.validation.items()},
        }

    def load(self, crop_px: int) -> None:
        """Load backbone and bank; LoRA and head are drawn."""
        phase, path = self.phase, self.settings.memory_path
        start = starting_backbone(self.settings.backbone, self.settings.seed)
        backbone, self.source, self.weights = start.backbone, start.source, start.weights
        check_crop(crop_px, backbone)
        bank = self.memory_sha256 = None
        if path is not None:
            if Path(path).is_file():  # hashed before it is loaded: one that changes in between is not what was asked for
                self.memory_sha256 = path_sha256(Path(path))
            bank = load_bank(Path(path), backbone.config, start.weights, phase.top_k, phase.drop_registers)
        backbone.rescale_positions(phase.rope_rescale)
        if phase.gradient_checkpointing:
            backbone.checkpoint_gradients()
        self.config = DetectorConfig(
            backbone=backbone.config,
            lora=self.lora,
            memory_bank=None if bank is None else bank.bank.config,
            head=self.head,
            drop_registers=bank is not None and bank.drop_registers,
            preprocess=PreprocessSpec(crop_px=crop_px),
        )
        self.detector = untrained_detector(self.config, backbone, self.settings.seed, None if bank is None else bank.bank)

    def module(self, steps_an_epoch: int) -> DetectorTrainingModule:
        """Return the module that trains LoRA and head."""
        settings = self.settings
        self.trained = DetectorTrainingModule(
            self.detector, self.training, steps_an_epoch, settings.batch_size, settings.seed
        )
        return self.trained

    def callbacks(self, folder: Path, facts: dict[str, Any]) -> list[L.Callback]:
        """Return the validation, where there are sets; it keeps the best detector."""
        if not self.validation:
            return []
        phase, keep_best = self.phase, partial(self._save, folder / BEST_FILE, facts)
        return [Validation(self.validation, phase.validate_every, self.epochs, phase.patience, keep_best)]

    def stopped_early(self, module: TrainingModule) -> bool:
        """Whether the validations were no better for too long."""
        return has_stalled(module.validated, self.phase.patience)

    def save(self, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the last detector; the best one is there already."""
        self._save(folder / LAST_FILE, facts)
        files = [name for name in self.outputs if (folder / name).exists()]
        validated = self.trained.validated
        return {
            "memory": {"path": self.settings.memory_path, "sha256": self.memory_sha256},
            "checkpoints": {name: path_sha256(folder / name) for name in files},
            "validated": [{"step": figures.step, "bal_acc": figures.bal_acc} for figures in validated],
            "best": best(validated)._asdict() if validated else None,
        }

    def _save(self, path: Path, facts: dict[str, Any]) -> None:
        validated = self.trained.validated
        training = {
            **facts,
            "step": self.trained.step,
            "epoch": self.trained.step // self.trained.steps_an_epoch,
            "validated": validated[-1].bal_acc if validated and validated[-1].step == self.trained.step else None,
        }
        left_out = None if self.phase.self_contained else self.source
        save_checkpoint(path, self.detector, backbone=left_out, training=training, replace=True)
