"""The training job: images in, a memory bank or a detector out, and a folder that says how it came about."""

from __future__ import annotations

import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.config.build import build, build_trainer
from mirror_pl.detectors.known_backbones import backbone_name
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError, name_list
from mirror_pl.experiment.training_state import TrainingState, read_state, restore
from mirror_pl.files import printable
from mirror_pl.jobs.dashboards import dashboards, show_facts
from mirror_pl.jobs.detector_phase import DetectorPhase
from mirror_pl.jobs.memory_phase import MemoryPhase
from mirror_pl.jobs.phase import Phase
from mirror_pl.jobs.probe_phase import ProbePhase
from mirror_pl.labels import FAKE, REAL
from mirror_pl.provenance import device_name, git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_plain

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.experiment.batch import Flaw
    from mirror_pl.experiment.training_data_module import TrainingDataModule
    from mirror_pl.experiment.training_module import TrainingModule
    from mirror_pl.experiment.training_set import TrainingSet

PHASES: Final[dict[str, type[MemoryPhase] | type[DetectorPhase]]] = {
    "memory": MemoryPhase,
    "detector": DetectorPhase,
    "probe": ProbePhase,
}
STATE_FILE = "state.pt"


def run(cfg: DictConfig) -> None:
    """Train as `cfg` says and write the run folder.

    Raises:
        MirrorError: Before anything is written, if settings, data or weights are not usable; if the loss is not finite; and,
            after everything was written, if some images could not be read.
    """
    console = Console()
    started = datetime.now().astimezone()
    if "head" not in cfg.detector:
        raise ConfigError(
            f"detector={cfg.detector.name}: there is no training for it here; MIRROR and its variants have one"
        )
    phase: Phase = PHASES[cfg.phase.name](cfg)
    settings = phase.settings
    data: TrainingDataModule = build(cfg.data)
    images = data.training_set
    phase.check_images(images)
    fingerprint = images.fingerprint()
    settings_yaml = OmegaConf.to_yaml(cfg, resolve=True)
    if settings.resume and "csv" in cfg.logger:  # Lightning would delete what the stopped run has logged
        cfg.logger.csv.version = f"resumed_{started:%Y%m%d_%H%M%S}"
    trainer = build_trainer(cfg)
    _check_trainer(trainer)
    steps_an_epoch = data.use_epochs(phase.epochs, trainer.world_size)
    path = Path(settings.output_dir)
    folder = None
    if trainer.is_global_zero:  # with several processes, one of them prints and writes
        _check_nobody_elses(path, phase)
        folder = RunFolder(path, settings_yaml, resume=settings.resume)
    try:
        phase.load(data.augment.crop_px)
        # What a state must agree with to be gone on from.
        belongs_to = {
            "data": fingerprint,
            "batch_size": settings.batch_size,
            "steps_an_epoch": steps_an_epoch,
            **phase.belongs_to(),
        }
        state = read_state(path / STATE_FILE, belongs_to) if settings.resume else None
        if folder:
            _announce(phase, images, state, steps_an_epoch * phase.epochs, console)
        phase.prepare(data, trainer)
        if state is None:
            phase.begin(data, trainer.strategy.root_device)
    except BaseException:
        if folder:
            folder.release()
        raise
    made_by = {"versions": versions(), "revision": git_revision()}
    facts = {"data": fingerprint, "config": OmegaConf.to_container(cfg, resolve=True), **made_by}
    with dashboards(trainer, cfg, console):
        show_facts(trainer, {"data": fingerprint, "detector": phase.config.to_dict(), **made_by})
        module = phase.module(steps_an_epoch)
        steps = steps_an_epoch * phase.epochs
        clock = time.perf_counter()
        done = _train(phase, module, data, trainer, state, steps, (path, settings.save_every_steps, belongs_to, facts))
        flaws = _of_all_processes(module.flaws, trainer)
        if folder is None:
            return

        saved = phase.save(path, facts)
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
                "stopped_early": module.step < steps,
                "resumed_after": done or None,
                "images": {"used": len(images), "unreadable": len(flaws)},
                "data": {
                    "fingerprint": fingerprint,
                    "passed_over": images.passed_over.counts,
                    "unreadable_folders": {printable(name): reason for name, reason in images.unreadable.items()},
                },
                "backbone": None if phase.source is None else phase.source.to_dict(),
                **saved,
                "detector": phase.config.to_dict(),
                "figures": figures,
                "device": device_name(trainer.strategy.root_device),
                "processes": trainer.world_size,
                "precision": trainer.precision,
                **made_by,
                "machine": machine(),
            }
        )
        for name, value in figures.items():
            if name.split("/")[1] in phase.shown and value is not None:
                print_plain(f"{name:<28}{value:.6g}", console)
        if module.step < steps:
            print_plain(f"Stopped early, after {module.step:,} of {steps:,} steps.", console)
        for name in phase.outputs:
            if (path / name).exists():
                print_plain(f"Written: {path / name}", console)
        _raise_if_incomplete(flaws, images)


def _train(
    phase: Phase,
    module: TrainingModule,
    data: TrainingDataModule,
    trainer: L.Trainer,
    state: dict[str, Any] | None,
    steps: int,
    saving: tuple[Path, int, dict[str, Any], dict[str, Any]],
) -> int:
    """Train from the state on, to the end; return the steps that the state came with."""
    path, every_steps, belongs_to, facts = saving
    done = state["step"] if state else 0
    data.resume_after(done)
    if state:
        restore(module, state)
    # Stopped after its last step, Lightning would not even begin, and restore nothing.
    if done != steps and not phase.stopped_early(module):
        keeper = TrainingState(path / STATE_FILE, every_steps, belongs_to, state)
        trainer.callbacks.extend([*phase.callbacks(path, facts), keeper])  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=data)
    if module.step != steps and not phase.stopped_early(module):
        raise IncompleteRunError(f"training ended after {module.step:,} of {steps:,} steps; resume=true goes on")
    lost = [name for name, tensor in module.trained_state().items() if not bool(tensor.isfinite().all())]
    if lost:
        raise DataError(f"training ended with values that are not finite in {name_list(lost)}; lower phase.learning_rate")
    return int(done)


def _announce(phase: Phase, images: TrainingSet, state: dict[str, Any] | None, steps: int, console: Console) -> None:
    known = backbone_name(phase.config.backbone) or "a backbone without a name"
    counts = {"real": int((images.labels == REAL).sum()), "fake": int((images.labels == FAKE).sum())}
    found = " and ".join(f"{count:,} {label}" for label, count in counts.items() if count)
    print_plain(f"{phase.title}: {found} images, {known}, {steps:,} steps in {phase.epochs} epochs", console)
    if phase.source is None:
        print_plain("The backbone has random weights: give backbone.path=FOLDER for real ones.", console)
    if state:
        print_plain(f"Resumed after step {state['step']:,}.", console)


def _check_nobody_elses(path: Path, phase: Phase) -> None:
    strays = [
        name for name in (*phase.outputs, STATE_FILE) if (path / name).exists() and not (path / "config.yaml").exists()
    ]
    if strays:
        raise ConfigError(f"output_dir: {path} holds {name_list(strays)} of something else; give another output_dir=FOLDER")


def _raise_if_incomplete(flaws: list[Flaw], images: TrainingSet) -> None:
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
    if type(trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
        raise ConfigError(
            f"trainer.strategy={type(trainer.strategy).__name__}: training is on one device, or on several with ddp, where "
            "every process has all weights"
        )
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"trainer.precision={trainer.precision}: training is in 32-true or bf16-mixed")


def _of_all_processes(flaws: dict[int, Flaw], trainer: L.Trainer) -> list[Flaw]:
    shares = [flaws]
    if trainer.world_size > 1 and torch.distributed.is_initialized():
        shares = [flaws] * trainer.world_size
        torch.distributed.all_gather_object(shares, flaws)
    return sorted({flaw.id: flaw for share in shares for flaw in share.values()}.values())
