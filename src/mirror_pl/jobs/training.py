"""The training job: images in, a memory bank out, and a folder that says how it came about."""

from __future__ import annotations

import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.config.build import build, build_trainer, start_loggers
from mirror_pl.config.settings import TrainSettings, read_settings
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint import load_backbone, save_bank
from mirror_pl.detectors.config import DetectorConfig, MemoryBankConfig
from mirror_pl.detectors.known_backbones import backbone_name, known_backbone
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import ConfigError, IncompleteRunError, name_list
from mirror_pl.experiment.memory_bank_module import BankTraining, MemoryBankModule
from mirror_pl.experiment.training_state import TrainingState, read_state
from mirror_pl.files import path_sha256, printable
from mirror_pl.images import PreprocessSpec
from mirror_pl.provenance import device_name, git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_plain

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.experiment.batch import Flaw
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
    settings_yaml = OmegaConf.to_yaml(cfg, resolve=True)
    if settings.resume and "csv" in cfg.logger:  # Lightning would delete what the stopped run has logged
        cfg.logger.csv.version = f"resumed_{started:%Y%m%d_%H%M%S}"
    trainer = build_trainer(cfg)
    _check_trainer(trainer)
    steps_an_epoch = data.use_epochs(training.epochs, trainer.world_size)
    bank = MemoryBankConfig(phase.slots, phase.heads, phase.top_k)
    path = Path(settings.output_dir)
    folder = None
    # What a state must agree with to be gone on from.
    belongs_to = {"data": images.fingerprint(), "batch_size": settings.batch_size, "steps_an_epoch": steps_an_epoch}
    if trainer.is_global_zero:  # with several processes, one of them prints and writes
        strays = [name for name in (BANK_FILE, STATE_FILE) if (path / name).exists() and not (path / "config.yaml").exists()]
        if strays:
            raise ConfigError(
                f"output_dir: {path} holds {name_list(strays)} of something else; give another output_dir=FOLDER"
            )
        folder = RunFolder(path, settings_yaml, resume=settings.resume)
    try:
        backbone, has_weights = _backbone(settings)
        config = DetectorConfig(
            backbone=backbone.config,
            lora=None,
            memory_bank=bank,
            drop_registers=phase.drop_registers,
            preprocess=PreprocessSpec(crop_px=data.augment.crop_px),
        )
        state = read_state(path / STATE_FILE, belongs_to) if settings.resume else None
        backbone_sha256 = _sha256(settings.backbone.path) if folder else None
        start_loggers(trainer)
    except BaseException:
        if folder:
            folder.release()
        raise
    detector = untrained_detector(config, backbone, settings.seed)
    module = MemoryBankModule(detector, training, steps_an_epoch)
    done = state["step"] if state else 0
    data.resume_after(done)
    steps = steps_an_epoch * training.epochs
    if folder:
        known = backbone_name(backbone.config) or "a backbone without a name"
        print_plain(f"Phase 1: {len(images):,} real images, {known}, {steps:,} steps in {training.epochs} epochs", console)
        if not has_weights:
            print_plain("The backbone has random weights: give backbone.path=FOLDER for real ones.", console)
        if state:
            print_plain(f"Resumed after step {done:,}.", console)
    clock = time.perf_counter()
    if state and done == steps:  # stopped after its last step: Lightning would not even begin, and restore nothing
        module.load_trained_state(state["trained"])
        module.step = done
    else:
        keeper = TrainingState(path / STATE_FILE, settings.save_every_steps, belongs_to, state)
        trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=data)
    if module.step != steps:
        raise IncompleteRunError(f"training ended after {module.step:,} of {steps:,} steps; resume=true goes on")
    flaws = _of_all_processes(module.flaws, trainer)
    if folder is None:
        return

    bank_file = path / BANK_FILE
    save_bank(bank_file, detector.memory_bank, training.epochs, replace=settings.resume)
    folder.write_bad_images((flaw.id, images.paths[flaw.id], "train", str(flaw.status), flaw.reason) for flaw in flaws)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()} | module.epoch_figures
    figures = {name: value if math.isfinite(value) else None for name, value in logged.items() if name != "step"}
    folder.complete(
        {
            "command": sys.argv,
            "started": started.isoformat(),
            "finished": datetime.now().astimezone().isoformat(),
            "seconds": {"train": time.perf_counter() - clock},
            "steps": module.step,
            "resumed_after": done or None,
            "images": {"used": len(images), "unreadable": len(flaws)},
            "data": {
                "fingerprint": images.fingerprint(),
                "passed_over": images.passed_over.counts,
                "unreadable_folders": {printable(name): reason for name, reason in images.unreadable.items()},
            },
            "backbone": {"path": settings.backbone.path, "sha256": backbone_sha256},
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
        value = figures.get(f"train/{name}")
        if value is not None:
            print_plain(f"{name:<22}{value:.6g}", console)
    print_plain(f"Memory bank: {bank_file}", console)
    shortfalls = []
    if flaws:
        shown = name_list((printable(images.paths[flaw.id]) for flaw in flaws), 3)
        shortfalls.append(f"{len(flaws)} images could not be read and were left out: {shown}; see bad_images.csv")
    if images.unreadable:
        shortfalls.append(f"folders that cannot be listed: {name_list(images.unreadable)}")
    if shortfalls:
        raise IncompleteRunError("; ".join(shortfalls))


_WHOLE = {"max_epochs": 1, "max_steps": -1, "accumulate_grad_batches": 1, "limit_train_batches": 1.0, "overfit_batches": 0.0}
"""Settings of Lightning's that must stay: with others, its one pass is not the whole training, or a step not a batch."""


def _check_trainer(trainer: L.Trainer) -> None:
    for name, value in _WHOLE.items():
        if getattr(trainer, name) != value:
            raise ConfigError(
                f"trainer.{name}={getattr(trainer, name)}: must stay {value}; phase.epochs says how long to train"
            )
    if trainer.fit_loop.max_epochs != 1 or any(type(callback).__name__ == "Timer" for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ConfigError("trainer.max_time: a training is not cut short; stop it, and go on with resume=true")
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"trainer.precision={trainer.precision}: a bank is trained in 32-true or bf16-mixed")


def _of_all_processes(flaws: dict[int, Flaw], trainer: L.Trainer) -> list[Flaw]:
    shares = [flaws]
    if trainer.world_size > 1 and torch.distributed.is_initialized():
        shares = [flaws] * trainer.world_size
        torch.distributed.all_gather_object(shares, flaws)
    return sorted({flaw.id: flaw for share in shares for flaw in share.values()}.values())


def _backbone(settings: TrainSettings) -> tuple[Backbone, bool]:
    """Return the backbone, and whether it has weights; only one that is for trying things out may do without."""
    if settings.backbone.path is not None:
        return load_backbone(Path(settings.backbone.path)), True
    if settings.backbone.name != "tiny":
        raise ConfigError(
            "backbone.path: not given; training starts from the weights in a Hugging Face folder: backbone.path=FOLDER "
            "(backbone=tiny tries things out with random ones)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Backbone(known_backbone("tiny")).requires_grad_(False).eval(), False


def _sha256(path: str | None) -> Any:
    return None if path is None else path_sha256(Path(path))
