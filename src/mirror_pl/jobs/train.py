"""The training job: images in, a memory bank or a detector out, and a folder that says how it came about."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.config.build import build, build_trainer, build_validation
from mirror_pl.data.benchmark import of_all
from mirror_pl.detectors import MirrorDetector
from mirror_pl.detectors.checkpoint import read_checkpoint
from mirror_pl.detectors.known_backbones import backbone_name
from mirror_pl.detectors.scoring import PRECISIONS
from mirror_pl.errors import ConfigError, IncompleteRunError, name_list
from mirror_pl.jobs.dashboards import dashboards, show_facts
from mirror_pl.jobs.detector_phase import BEST_FILE, LAST_FILE, DetectorPhase, ProbePhase
from mirror_pl.jobs.local_processes import local_processes
from mirror_pl.jobs.memory_phase import MemoryPhase
from mirror_pl.jobs.phase import Phase
from mirror_pl.labels import FAKE, REAL
from mirror_pl.modules.trainable import check_factories
from mirror_pl.provenance import device_name, git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_plain
from mirror_pl.stopping import go_on_with
from mirror_pl.texts import printable

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.data import TrainingDataModule
    from mirror_pl.data.batch import Flaw
    from mirror_pl.data.training_set import TrainingSet
    from mirror_pl.modules.trainable import TrainableModule

PHASES: Final[dict[str, type[Phase]]] = {"memory": MemoryPhase, "detector": DetectorPhase, "probe": ProbePhase}


def run(cfg: DictConfig) -> None:
    """Train as `cfg` says and write the run folder.

    Raises:
        MirrorError: Before anything is written, if settings, data or weights are not usable; if the loss is not finite; and,
            after everything was written, if some images could not be read.
    """
    if cfg.phase.name == "miniature":
        from mirror_pl.jobs import miniature

        miniature.run(cfg)
        return
    console, started = Console(), datetime.now().astimezone()
    phase = PHASES[cfg.phase.name](cfg)
    settings = phase.settings
    validation = build_validation(cfg.validation, settings.num_workers, f"{cfg.paths.outputs}/.index")
    data: TrainingDataModule = build(cfg.data, validation=validation)
    images = data.training_set
    phase.check_images(images)
    data.check_validation()
    settings_yaml = OmegaConf.to_yaml(cfg, resolve=True)
    if settings.resume and "csv" in cfg.logger:  # Lightning would delete what the stopped run has logged
        cfg.logger.csv.version = f"resumed_{started:%Y%m%d_%H%M%S}"
    factories = {name: build(cfg[name]) for name in ("optimizer", "scheduler")}
    check_factories(**factories)
    trainer = build_trainer(cfg, leave_out=_without_use(cfg))
    _check_trainer(trainer)
    path = Path(settings.output_dir)
    folder = None
    if trainer.is_global_zero:  # with several processes, one of them prints and writes
        _check_nobody_elses(path, phase)
        folder = RunFolder(path, settings_yaml, resume=settings.resume)
        go_on_with(f"output_dir={path}", "resume=true")
    last = path / LAST_FILE
    resumed = settings.resume and last.exists()
    try:
        weights = phase.load(data.augment.crop_px)
        module: TrainableModule = build(
            cfg.module, detector=phase.detector, seed=settings.seed, **factories, **phase.module_settings()
        )
        before = read_checkpoint(last, "resume").training if resumed else {}
        if folder:
            folder.hold_to({**weights, **data.identity()}, started)
            _announce(phase, images, cfg, console)
            if resumed:
                print_plain(f"Resumed after step {before.get('step', 0):,}.", console)
        phase.prepare(data, trainer)
        if not resumed:
            phase.begin(data, trainer.strategy.root_device)
    except BaseException:
        if folder:
            folder.release()
        raise
    made_by = {"versions": versions(), "revision": git_revision()}
    fingerprint = images.fingerprint()
    facts = {"data": fingerprint, "config": OmegaConf.to_container(cfg, resolve=True), **made_by}
    with dashboards(trainer, cfg, console):
        show_facts(trainer, {"data": fingerprint, "detector": phase.detector.rebuilt_from(), **made_by})
        module.origin = facts
        clock = time.perf_counter()
        with local_processes(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if resumed else None)
            steps, planned = trainer.global_step, trainer.estimated_stepping_batches
            trainer.save_checkpoint(last)
            flaws = sorted({flaw.id: flaw for share in of_all(module.flaws, trainer) for flaw in share.values()}.values())
        if folder is None:
            return

        saved = phase.save(path, module, facts)
        folder.write_bad_images((flaw.id, images.paths[flaw.id], "train", str(flaw.status), flaw.reason) for flaw in flaws)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        figures = {name: value if math.isfinite(value) else None for name, value in logged.items()}
        folder.complete(
            {
                "command": sys.argv,
                "started": started.isoformat(),
                "finished": datetime.now().astimezone().isoformat(),
                "seconds": {"train": time.perf_counter() - clock},
                "steps": steps,
                "stopped_early": steps < planned,
                "resumed_after": module.began_at or None,
                "images": {"used": len(images), "unreadable": len(flaws)},
                "data": {
                    "fingerprint": fingerprint,
                    "passed_over": images.passed_over.counts,
                    "unreadable_folders": {printable(name): reason for name, reason in images.unreadable.items()},
                },
                "backbone": None if phase.source is None else phase.source.to_dict(),
                **saved,
                "detector": phase.detector.rebuilt_from(),
                "figures": figures,
                "device": device_name(trainer.strategy.root_device),
                "processes": trainer.world_size,
                "precision": trainer.precision,
                **made_by,
                "machine": machine(),
            }
        )
        for name, value in figures.items():
            if name.rpartition("/")[2] in phase.shown and value is not None:
                print_plain(f"{name:<28}{value:.6g}", console)
        if steps < planned:
            print_plain(f"Stopped early, after {steps:,} of {planned:,} steps.", console)
        for name in phase.outputs:
            if (path / name).exists():
                print_plain(f"Written: {path / name}", console)
        _raise_if_incomplete(flaws, images)


def _without_use(cfg: DictConfig) -> list[str]:
    """Return the callbacks that wait for a validation, where there is none, or for a logger.

    Raises:
        ConfigError: If one of them was asked for.
    """
    of_loggers = [] if cfg.logger else [str(name) for name in cfg.callbacks if name == "learning_rate"]
    if cfg.validation:
        return of_loggers
    waiting = [str(name) for name, node in cfg.callbacks.items() if str(node.get("monitor") or "").startswith("val/")]
    asked = [name for name in waiting if name != Path(BEST_FILE).stem]
    if asked:
        raise ConfigError(
            f"callbacks.{asked[0]}: there is no validation set; add +validation.NAME=FOLDER, or leave {asked[0]} out"
        )
    return [*waiting, *of_loggers]


def _announce(phase: Phase, images: TrainingSet, cfg: DictConfig, console: Console) -> None:
    detector = phase.detector
    what = detector.name
    if isinstance(detector, MirrorDetector):
        what = backbone_name(detector.config.backbone) or "a backbone without a name"
    counts = {"real": int((images.labels == REAL).sum()), "fake": int((images.labels == FAKE).sum())}
    found = " and ".join(f"{count:,} {label}" for label, count in counts.items() if count)
    print_plain(f"{phase.title}: {found} images, {what}", console)
    if phase.source is None and cfg.get("checkpoint") is None:
        print_plain("The backbone has random weights: give backbone.path=FOLDER for real ones.", console)


def _check_nobody_elses(path: Path, phase: Phase) -> None:
    strays = [name for name in (*phase.outputs, LAST_FILE) if (path / name).exists() and not (path / "config.yaml").exists()]
    if strays:
        raise ConfigError(f"output_dir: {path} holds {name_list(strays)} of something else; give another output_dir=FOLDER")


def _raise_if_incomplete(flaws: Sequence[Flaw], images: TrainingSet) -> None:
    shortfalls = []
    if flaws:
        shown = name_list((printable(images.paths[flaw.id]) for flaw in flaws), 3)
        shortfalls.append(f"{len(flaws)} images could not be read and were left out: {shown}; see bad_images.csv")
    if images.unreadable:
        shortfalls.append(f"folders that cannot be listed: {name_list(images.unreadable)}")
    if shortfalls:
        raise IncompleteRunError("; ".join(shortfalls))


def _check_trainer(trainer: L.Trainer) -> None:
    if type(trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
        raise ConfigError(
            f"trainer.strategy={type(trainer.strategy).__name__}: training is on one device, or on several with ddp, where "
            "every process has all weights"
        )
    known = [name for name, kind in PRECISIONS.items() if kind.weights == torch.float32]  # what learns is not rounded
    if trainer.precision not in known:
        raise ConfigError(f"trainer.precision={trainer.precision}: training is in one of {', '.join(known)}")
