"""The training job: images in, a memory bank out, and a folder that says how it came about."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.config.build import build, build_trainer, start_loggers
from mirror_pl.config.settings import TrainSettings, read_settings
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint import load_backbone, save_bank
from mirror_pl.detectors.config import DetectorConfig, MemoryBankConfig
from mirror_pl.detectors.known_backbones import backbone_name, known_backbone
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import ConfigError, IncompleteRunError
from mirror_pl.experiment.memory_bank_module import BankTraining, MemoryBankModule
from mirror_pl.experiment.training_state import TrainingState, read_state
from mirror_pl.files import path_sha256, printable
from mirror_pl.images import PreprocessSpec
from mirror_pl.provenance import device_name, git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_plain

if TYPE_CHECKING:
    from mirror_pl.experiment.training_data_module import TrainingDataModule

STATE_FILE, BANK_FILE = "state.pt", "memory_bank.pth"


def run(cfg: DictConfig) -> None:
    """Train as `cfg` says and write the run folder.

    Raises:
        MirrorError: Before anything is written, if settings, data or weights are not usable; if the loss is not finite; and,
            after everything was written, if some images could not be read.
    """
    settings = read_settings(cfg, TrainSettings)
    console = Console()
    started = datetime.now().astimezone()
    phase = settings.phase
    training = BankTraining(
        phase.epochs,
        phase.learning_rate,
        phase.weight_decay,
        phase.orthogonality,
        phase.loss_form,  # type: ignore[arg-type]
    )
    data: TrainingDataModule = build(cfg.data)
    images = data.training_set
    trainer = build_trainer(cfg)
    steps_an_epoch = data.use_epochs(training.epochs, trainer.world_size)
    bank = MemoryBankConfig(phase.slots, phase.heads, phase.top_k)
    path = Path(settings.output_dir)
    folder = None
    if trainer.is_global_zero:  # with several processes, one of them prints and writes
        folder = RunFolder(path, OmegaConf.to_yaml(cfg, resolve=True), resume=settings.resume)
    try:
        backbone, has_weights = _backbone(settings)
        config = DetectorConfig(
            backbone=backbone.config,
            lora=None,
            memory_bank=bank,
            drop_registers=phase.drop_registers,
            preprocess=PreprocessSpec(crop_px=data.augment.crop_px),
        )
        state = read_state(path / STATE_FILE) if settings.resume else None
        start_loggers(trainer)
    except BaseException:
        if folder:
            folder.release()
        raise
    detector = untrained_detector(config, backbone, settings.seed)
    module = MemoryBankModule(detector, training, steps_an_epoch)
    done = state["step"] if state else 0
    data.resume_after(done)
    if folder:
        known = backbone_name(backbone.config) or "a backbone without a name"
        steps = steps_an_epoch * training.epochs
        print_plain(f"Phase 1: {len(images):,} real images, {known}, {steps:,} steps in {training.epochs} epochs", console)
        if not has_weights:
            print_plain("The backbone has random weights: give backbone.path=FOLDER for real ones.", console)
        if state:
            print_plain(f"Resumed after step {done:,}.", console)
    trainer.callbacks.append(TrainingState(path / STATE_FILE, settings.save_every_steps, state))  # type: ignore[attr-defined]
    clock = time.perf_counter()
    trainer.fit(module, datamodule=data)
    if folder is None:
        return

    bank_file = path / BANK_FILE
    if not bank_file.exists():
        save_bank(bank_file, detector.memory_bank, training.epochs)
    folder.write_bad_images(
        (flaw.id, images.paths[flaw.id], "train", str(flaw.status), flaw.reason) for flaw in module.flaws.values()
    )
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    folder.complete(
        {
            "command": sys.argv,
            "started": started.isoformat(),
            "finished": datetime.now().astimezone().isoformat(),
            "seconds": {"train": time.perf_counter() - clock},
            "steps": module.step,
            "resumed_after": done or None,
            "images": {"used": len(images), "unreadable": len(module.flaws)},
            "data": {"fingerprint": images.fingerprint()},
            "backbone": {"path": settings.backbone.path, "sha256": _sha256(settings.backbone.path)},
            "bank": {"path": BANK_FILE, "sha256": path_sha256(bank_file)},
            "detector": config.to_dict(),
            "figures": figures,
            "device": device_name(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "versions": versions(),
            "revision": git_revision(),
            "machine": machine(),
        }
    )
    for name in ("reconstruction", "explained", "orthogonality", "orthogonality_floor", "dead_slots", "usage_entropy"):
        if f"train/{name}" in figures:
            print_plain(f"{name:<22}{figures[f'train/{name}']:.6g}", console)
    print_plain(f"Memory bank: {bank_file}", console)
    if module.flaws:
        shown = ", ".join(printable(images.paths[image]) for image in list(module.flaws)[:3])
        count = len(module.flaws)
        raise IncompleteRunError(f"{count} images could not be read and were left out: {shown}; see bad_images.csv")


def _backbone(settings: TrainSettings) -> tuple[Backbone, bool]:
    """Return the backbone, and whether it has weights; only one that is for trying things out may do without."""
    if settings.backbone.path is not None:
        return load_backbone(Path(settings.backbone.path)), True
    if settings.backbone.name != "tiny":
        raise ConfigError(
            "backbone.path: not given; training starts from the weights in a Hugging Face folder: backbone.path=FOLDER "
            "(backbone=tiny tries things out with random ones)"
        )
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Backbone(known_backbone("tiny")).requires_grad_(False).eval(), False


def _sha256(path: str | None) -> Any:
    return None if path is None else path_sha256(Path(path))
