"""The evaluation job: a detector over a benchmark, into a run folder; under several conditions, where a suite names them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.callbacks import PartsOfRun, Predictions, ScoreKeeper
from mirror_pl.config.build import build, build_manifest, build_trainer, label_table
from mirror_pl.config.build_detector import build_detector, build_policy, is_miniature
from mirror_pl.config.schema import FREE_SETTINGS, EvalSettings, literal, read_settings
from mirror_pl.errors import ConfigError, IncompleteRunError
from mirror_pl.jobs.dashboards import dashboards, mirror
from mirror_pl.jobs.dependencies import (
    WeightsFile,
    dependencies,
    is_finished,
    is_stopped_run,
    run_key,
    weights_of,
    with_absolute_paths,
)
from mirror_pl.jobs.evaluation_record import Record, calibrated, check_other_images, raise_if_incomplete, write_record
from mirror_pl.jobs.local_processes import local_processes
from mirror_pl.jobs.repetition import Original
from mirror_pl.modules import DetectorModule
from mirror_pl.provenance import Clock, device_name, git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_plain, print_report
from mirror_pl.reports.console import print_abstention
from mirror_pl.retrieval.fused import why_not_fused
from mirror_pl.stopping import go_on_with

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.benchmarks import BenchmarkIndex
    from mirror_pl.data import BenchmarkDataModule
    from mirror_pl.detectors import CropPolicy, Detector
    from mirror_pl.images import Condition


class Also(Protocol):
    """What else is made of an evaluation, whose images are scored under further conditions."""

    def __call__(
        self, job: Job, detector: str, record: Record, predictions: Predictions, folder: RunFolder
    ) -> dict[str, Any]:
        """Write it, and return what ``run.json`` says of it."""


@dataclass
class Job:
    """An evaluation on its way; `folder` is that of the first process alone."""

    cfg: DictConfig
    settings: EvalSettings
    data: BenchmarkDataModule
    trainer: L.Trainer
    keeper: ScoreKeeper
    folder: RunFolder | None
    original: Original | None
    policy: CropPolicy
    clock: Clock
    console: Console
    also: Also | None
    weights: dict[str, WeightsFile] = field(default_factory=dict)


def run(cfg: DictConfig, named: Collection[str] = ()) -> None:
    """Evaluate as `cfg` says and write the run folder.

    Args:
        cfg: Settings of ``mirror_pl.eval``.
        named: Those that the command line names, which a repetition takes from there.

    Raises:
        MirrorError: Before anything is written, if settings, data or checkpoint are not usable; while scoring, if scores
            cannot be kept or a process dies; after everything was written, an `IncompleteRunError`, if too many images were
            bad, a required subset is absent, or a repetition does not agree.
    """
    evaluate(cfg, EvalSettings, named)


def evaluate(
    cfg: DictConfig,
    kind: type[EvalSettings],
    named: Collection[str] = (),
    conditions: Sequence[Condition] | None = None,
    also: Also | None = None,
) -> None:
    """Do what `run` does, and more if asked to.

    Args:
        cfg: Settings of a command.
        kind: Which they are.
        named: As for `run`.
        conditions: Under which each image is scored, the one that the run is of first; None leaves that to the settings.
        also: What is made of the others.
    """
    job = _begin(cfg, kind, named, conditions)
    job.also = also
    settings, data, folder = job.settings, job.data, job.folder
    try:
        try:
            if folder:
                job.weights = weights_of(settings)
                for place in range(len(settings.heads or ())):
                    job.weights[f"head_{place + 1}"] = weights_of(_of_head(job, place).settings)["checkpoint"]
                job.clock.lap("hash")
                if job.original:
                    job.original.check(job.weights, data.index)
            if is_finished(settings, folder):
                if folder:
                    _say_finished(folder, job.weights, data.index, job.console)
                return
            precision, device = str(job.trainer.precision), job.trainer.strategy.root_device
            detector, reused = build_detector(settings, precision, device)
            heads = [
                build_detector(_of_head(job, place).settings, precision)[0] for place in range(len(settings.heads or ()))
            ]
            job.clock.lap("load")
            parts = _parts(job, detector)
        except BaseException:
            if folder:
                folder.release()
            raise
        if folder:
            _announce(job, folder, reused)
            if detector.quantised is not None:
                print_plain(str(detector.quantised), job.console)
        with dashboards(job.trainer, job.cfg, job.console):
            job.keeper.parts = parts
            module = DetectorModule(detector, heads=heads, policy=job.policy, tf32=settings.tf32)
            with local_processes(job.trainer):
                job.trainer.test(module, datamodule=data, verbose=False)
            predictions = job.keeper.predictions
            job.clock.lap("score")
            for place, head in enumerate(heads if folder else ()):  # before the run that they are part of is complete
                _complete_head(job, place, head, predictions.every(1 + len(heads), 1 + place))
            if folder:
                _complete(job, detector, predictions.every(1 + len(heads), 0), folder)
    finally:
        if folder:
            folder.unlock()


def _of_head(job: Job, place: int) -> Job:
    """Return the evaluation of one of the further heads by itself, as its run folder has it."""
    assert job.settings.heads
    checkpoint = job.settings.heads[place]
    settings = job.settings.model_copy(update={"checkpoint": checkpoint, "heads": None})
    cfg = job.cfg.copy()
    cfg.checkpoint, cfg.heads = literal(checkpoint), None
    return replace(job, cfg=cfg, settings=settings, original=None)


def _complete_head(job: Job, place: int, detector: Detector, predictions: Predictions) -> None:
    """Write the run folder of one of the further heads."""
    assert job.folder
    head = _of_head(job, place)
    path = job.folder.path / "heads" / f"{place + 1}-{Path(str(head.settings.checkpoint)).stem}"
    yaml = OmegaConf.to_yaml(head.cfg, resolve=True)
    folder = RunFolder(path, yaml, resume=True, free=FREE_SETTINGS, again=True)
    if not folder.finished:
        head.weights = weights_of(head.settings)
        _complete(head, detector, predictions, folder, is_further=True)


def _begin(cfg: DictConfig, kind: type[EvalSettings], named: Collection[str], conditions: Sequence[Condition] | None) -> Job:
    """Check the settings, find the data, and claim the run folder."""
    settings = read_settings(cfg, kind)
    original = None
    if settings.repeat is not None:
        original = Original.read(Path(settings.repeat))
        cfg = original.settings(cfg, named)
        settings = read_settings(cfg, kind)
    clock, policy = Clock(), build_policy(settings)
    # Kept listings do not notice every change, and a run that goes on must.
    fresh: dict[str, Any] = {"index_cache": None} if is_stopped_run(settings) else {}
    data: BenchmarkDataModule = build(
        cfg.data,
        manifest=build_manifest(cfg),
        data_root=settings.data_root,
        reals=settings.reals,
        labels=label_table(settings.labels, "labels"),
        pair=settings.compat is None,
        crops=policy.crops,
        conditions=conditions,
        **fresh,
    )
    _ = data.index  # what is not there is said before a folder is made
    if settings.calibration is not None:
        check_other_images(Path(settings.calibration), data.index)
    keeper = ScoreKeeper()
    trainer = build_trainer(cfg, keeper)
    limit = trainer.limit_test_batches  # 1.0 is all of them, 1 a single one; fast_dev_run sets it too
    if isinstance(limit, int) or limit != 1.0:
        raise ConfigError("trainer: limit_test_batches and fast_dev_run leave images out, and would give a false report")
    data.trainer = trainer
    folder = None
    if trainer.is_global_zero:  # with several processes, one of them prints and writes
        yaml = OmegaConf.to_yaml(cfg, resolve=True)
        folder = RunFolder(Path(settings.output_dir), yaml, resume=settings.resume, free=FREE_SETTINGS, again=True)
        go_on_with(f"output_dir={settings.output_dir}", "resume=true")
    return Job(cfg, settings, data, trainer, keeper, folder, original, policy, clock, Console(), None)


def _parts(job: Job, detector: Detector) -> PartsOfRun | None:
    """Return where scores are kept, once it is sure that those of an earlier try are scores of the same things."""
    if job.folder is None:
        return None  # the first process tells the others
    device = job.trainer.strategy.root_device.type
    facts = dependencies(job.weights, job.data, detector, device)
    job.clock.started = job.folder.hold_to(facts, job.clock.started)
    return PartsOfRun(job.folder.parts, run_key(facts, job.clock.started), job.settings.save_every_s)


def _announce(job: Job, folder: RunFolder, reused: bool) -> None:
    index, console = job.data.index, job.console
    found = f"{len(index):,} images of {len(index.subsets)} of {len(index.all_subsets)} subsets"
    print_plain(f"{index.manifest.title}: {found} in {index.data_root}", console)
    if reused:
        print_plain("The detector is that of the job before, not loaded again: same settings, same files.", console)
    if is_miniature(job.settings.checkpoint):
        print_plain("This is the miniature: a small detector of small decoders, and none for the real world.", console)
    print_plain(f"Run folder: {folder.path}", console)


def _complete(
    job: Job, detector: Detector, predictions: Predictions, folder: RunFolder, *, is_further: bool = False
) -> None:
    """Write what is known now, and say it; of a further head, dashboards are not told."""
    settings, index, trainer, console = job.settings, job.data.index, job.trainer, job.console
    calibration, conditions = detector.calibration, job.data.conditions
    everything = calibrated(predictions, calibration)
    predictions = everything.every(len(conditions), 0)
    if predictions.resumed:
        print_plain(f"Resumed: {predictions.resumed:,} of {len(index):,} images were scored before.", console)
    record = write_record(folder, settings, index, detector.name, predictions, job.clock.started, conditions[0], calibration)
    agreement = job.original.compare(record.table) if job.original else None
    device = device_name(trainer.strategy.root_device)
    facts = {
        "command": sys.argv,
        **job.clock.facts(),
        "images": {"indexed": len(index), **record.counts},
        "resumed_after": predictions.resumed or None,
        "data": {"root": str(index.data_root.resolve()), "fingerprint": index.fingerprint()},
        **{key: file.to_dict() for key, file in job.weights.items()},
        **({} if calibration is None else {"calibrated": calibration.description()}),
        "miniature": is_miniature(settings.checkpoint),
        "detector": detector.description(),
        "protocol": {**asdict(job.policy), "as_published": job.policy.is_same_as(detector.protocol)},
        "condition": conditions[0].facts(),
        "device": device,
        "processes": trainer.world_size,
        "precision": trainer.precision,
        **({} if detector.quantised is None else {"quantised": asdict(detector.quantised)}),
        "split_to": predictions.most_together,
        "fused_kernel": why_not_fused() or ("used" if trainer.strategy.root_device.type == "cuda" else None),
        "report": record.report.name,
        "repeats": None if agreement is None else agreement.to_dict(),
        "config": with_absolute_paths(job.cfg),
        "versions": versions(),
        "revision": git_revision(),
        "machine": machine(),
    }
    print_report(index, record.scores, record.compared, console)
    if record.abstention is not None:
        print_abstention(record.abstention, console)
    if job.also:
        facts |= job.also(job, detector.name, record, everything, folder)
    folder.complete(facts)
    print_plain(f"Report: {record.report}", console)
    if is_further:
        return
    mirror(
        trainer,
        job.cfg,
        index=index,
        table=record.table,
        scores=record.scores,
        compared=record.compared,
        detector=detector.name,
        facts=facts,
    )
    if job.original and agreement:
        job.original.say(agreement, versions(), device, console)
    raise_if_incomplete(settings, index, record.counts, folder.path)
    if job.original and agreement and not agreement.agrees:
        raise IncompleteRunError(f"repeat: the numbers are not those of {job.original.path}: {agreement}")


def _say_finished(folder: RunFolder, weights: Mapping[str, WeightsFile], index: BenchmarkIndex, console: Console) -> None:
    """Say that there is nothing to do, once it is sure that the run is of the same weights and data.

    Raises:
        ConfigError: If it is not.
    """
    run = folder.read_facts()
    folder.check_unchanged(
        {**{key: (run.get(key) or {}).get("sha256") for key in weights}, "data": run["data"]["fingerprint"]},
        {**{key: file.sha256 for key, file in weights.items()}, "data": index.fingerprint()},
    )
    print_plain(f"Complete already: {folder.path}; nothing is evaluated", console)
