"""Phase 2 and the linear probe: reals and fakes in, a detector out, from a bank or from another detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import DictConfig, OmegaConf

from mirror_pl.config.build_detector import backbone_folder, backbone_weights, checkpoint_of, kind_of_detector, loaded
from mirror_pl.config.schema import DetectorTrainSettings, read_settings
from mirror_pl.detectors import Detector, DetectorConfig, HeadConfig, LoraConfig, MirrorDetector
from mirror_pl.detectors.baseline import Baseline
from mirror_pl.detectors.checkpoint import find_backbone, load_bank, read_checkpoint
from mirror_pl.detectors.detector_config import from_mapping
from mirror_pl.detectors.registry import kind_named
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.detectors.variants import LINEAR_PROBE, variant_name
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.files import path_sha256
from mirror_pl.hub import origin, with_origin
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
    detector: Detector

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = settings = read_settings(cfg, DetectorTrainSettings)
        self.phase = phase = settings.phase
        self.lora = None if phase.lora_rank is None else LoraConfig(phase.lora_rank, phase.lora_alpha)
        self.memory_sha256: str | None = None
        kind = kind_of_detector(settings)
        self.is_baseline = kind is not MirrorDetector
        if self.is_baseline:
            name = settings.detector.target or settings.detector.name
            if not issubclass(kind, Baseline) or kind_named(kind.title) is None:
                raise ConfigError(
                    f"detector={name}: it cannot be trained, as no file of our training could hold it; that takes a "
                    "registered subclass of mirror_pl.detectors.baseline.Baseline: docs/adding-a-detector.md"
                )
            checkpoint_of(settings)
            if phase.rope_rescale is not None:
                raise ConfigError(f"phase.rope_rescale: it is MIRROR's alone, not of detector={name}; leave it out")
            return
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
        checkpoint = self.settings.checkpoint
        if self.is_baseline:
            weights = backbone_weights(self.settings)
            self.detector, self.source = loaded(self.settings, merge=False), None
            own = path_sha256(Path(checkpoint_of(self.settings)))
            self.weights = own if weights is None else f"{own}, {weights.sha256}"
        elif checkpoint is not None:
            folder = backbone_folder(self.settings.backbone)
            self.detector = MirrorDetector.load(checkpoint, backbone_folder=folder, merge=False)
            self.source = find_backbone(read_checkpoint(Path(checkpoint)), folder)
            self.weights = path_sha256(Path(checkpoint)) if self.source is None else self.source.sha256
        else:
            self.detector = self._from_parts(crop_px)
        if checkpoint is not None:
            self._go_on_with(checkpoint, crop_px)
        if isinstance(self.detector, MirrorDetector):
            self.detector.rescale_positions(self.phase.rope_rescale)
        if self.phase.gradient_checkpointing:
            self.detector.checkpoint_gradients()
        return {"backbone": self.weights, "memory_bank": self.memory_sha256}

    def _go_on_with(self, checkpoint: str, crop_px: int) -> None:
        """See that the training crops are those that a loaded detector looks at, and give it LoRA where it has none."""
        detector = self.detector
        if crop_px != detector.spec.crop_px:
            raise ConfigError(
                f"augment.crop_px: {checkpoint} looks at crops of {detector.spec.crop_px} px, training at {crop_px}; give "
                f"augment.crop_px={detector.spec.crop_px}"
            )
        if self.lora is not None and detector.lora is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.settings.seed)
                detector.adapt(self.lora)

    def _from_parts(self, crop_px: int) -> MirrorDetector:
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
        return untrained_detector(config, backbone, self.settings.seed, None if bank is None else bank.bank)

    def module_settings(self) -> dict[str, Any]:
        """Return where the frozen backbone's weights are, unless they go into the checkpoints."""
        return {"backbone": None if self.phase.self_contained else self.source}

    def save(self, folder: Path, module: TrainableModule, facts: dict[str, Any]) -> dict[str, Any]:
        """Say what the checkpoints are, which Lightning has written."""
        del module, facts
        files = [name for name in self.outputs if (folder / name).exists()]
        best = read_checkpoint(folder / BEST_FILE).training if BEST_FILE in files else None
        return {
            "memory": with_origin({"path": self.settings.memory_path, "sha256": self.memory_sha256}),
            "started_from": self.settings.checkpoint and (origin(self.settings.checkpoint) or self.settings.checkpoint),
            "checkpoints": {name: path_sha256(folder / name) for name in files},
            "best": best and {"step": best["step"], "bal_acc": best["validated"]},
        }


class ProbePhase(DetectorPhase):
    """Learns the head alone, and that is one layer; all else is as in Phase 2."""

    title: ClassVar[str] = "Linear probe"

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        if self.is_baseline or variant_name(self.head) != LINEAR_PROBE or self.lora is not None:
            raise ConfigError(
                "phase=probe learns detector=linear_probe with phase.lora_rank=null; leave both out, or give phase=detector"
            )
