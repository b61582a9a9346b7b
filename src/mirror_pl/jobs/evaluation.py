"""The evaluation job: a detector over a benchmark, into a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.benchmarks import published_for
from mirror_pl.config.build import (
    backbone_folder,
    build,
    build_detector,
    build_manifest,
    build_trainer,
    is_miniature,
    start_loggers,
)
from mirror_pl.config.settings import EvalSettings, read_settings
from mirror_pl.detectors.checkpoint import backbone_source
from mirror_pl.detectors.known_backbones import backbone_name
from mirror_pl.errors import IncompleteRunError, name_list
from mirror_pl.experiment import evaluate
from mirror_pl.files import path_sha256
from mirror_pl.provenance import device_name, git_revision, machine, versions
from mirror_pl.reports import RunFolder, deltas, print_plain, print_report
from mirror_pl.scores import Status, make_table, score_benchmark

if TYPE_CHECKING:
    import pyarrow as pa
    from lightning.pytorch.loggers import Logger
    from numpy.typing import NDArray

    from mirror_pl.benchmarks import BenchmarkIndex
    from mirror_pl.experiment import BenchmarkDataModule, Predictions
    from mirror_pl.scores import BenchmarkScores, Compat


def run(cfg: DictConfig) -> None:
    """Evaluate as `cfg` says and write the run folder.

    Raises:
        MirrorError: Before anything is written, if settings, data or checkpoint are not usable; after everything was
            written, an `IncompleteRunError`, if too many images were bad or a required subset is absent.
    """
    settings = read_settings(cfg, EvalSettings)
    clock = _Clock()
    console = Console()
    manifest = build_manifest(cfg)
    data: BenchmarkDataModule = build(
        cfg.data,
        manifest=manifest,
        data_root=settings.data_root,
        reals=settings.reals,
        pair=settings.compat is None,
    )
    index = data.index
    trainer = build_trainer(cfg)
    folder = None
    if trainer.is_global_zero:  # with several processes, one of them prints and writes
        folder = RunFolder(Path(settings.output_dir), OmegaConf.to_yaml(cfg, resolve=True))
    try:
        detector, reused = build_detector(settings)
        start_loggers(trainer)
    except BaseException:
        if folder:
            folder.release()
        raise
    clock.lap("load")
    if folder:
        found = f"{len(index):,} images of {len(index.subsets)} of {len(index.all_subsets)} subsets"
        print_plain(f"{manifest.title}: {found} in {index.data_root}", console)
        if reused:
            print_plain("The detector is that of the job before, not loaded again: same settings, same files.", console)
        if is_miniature(settings.checkpoint):
            print_plain("This is the miniature: a small detector of small decoders, and none for the real world.", console)
    # Before scoring: what is hashed is what was loaded.
    hashed = _hashed(settings) if folder else {}
    clock.lap("hash")
    predictions = evaluate(detector, data, trainer, tf32=settings.tf32)
    clock.lap("score")
    if folder is None:
        return

    ids, subset_ids = index.rows()
    table = _table(index, predictions, ids, subset_ids, index.subsets)
    scores = score_benchmark(table, settings.quirks)
    counts = {str(status): int((predictions.statuses == status).sum()) for status in Status}
    folder.write_predictions(table)
    folder.write_bad_images(
        (flaw.id, index.paths[flaw.id], manifest.groups[index.group_ids[flaw.id]], str(flaw.status), flaw.reason)
        for flaw in predictions.flaws
    )
    name = manifest.published_key if settings.compat == "published" else manifest.name
    report = folder.write_report(f"{name}_{clock.started:%Y%m%d_%H%M%S}", scores, manifest.pooled_row)
    detector_name = f"mirror/{backbone_name(detector.config.backbone)}"
    compared = deltas(published_for(manifest.name, detector_name), scores.mean["bal_acc"])
    folder.write_deltas(compared)
    per_class = _per_class(index, predictions, settings.quirks) if settings.per_class else None
    if per_class is not None:
        folder.write_report(f"{report.stem}_per_class", per_class, None)
    folder.write_metrics(
        index,
        scores,
        published=[asdict(delta) for delta in compared],
        per_class=None if per_class is None else [asdict(row) for row in per_class.rows],
        images=counts,
        compat=settings.compat,
        miniature=is_miniature(settings.checkpoint),
    )
    folder.complete(
        {
            "command": sys.argv,
            **clock.facts(),
            "images": {"indexed": len(index), **counts},
            "data": {"root": str(index.data_root.resolve()), "fingerprint": index.fingerprint()},
            **hashed,
            "miniature": is_miniature(settings.checkpoint),
            "detector": detector.config.to_dict(),
            "device": device_name(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "split_to": predictions.most_together,
            "report": report.name,
            "versions": versions(),
            "revision": git_revision(),
            "machine": machine(),
        }
    )
    print_report(index, scores, compared, console)
    print_plain(f"Report: {report}", console)
    _mirror(trainer.loggers, cfg, scores, console)
    _raise_if_incomplete(settings, index, counts, folder.path)


def _table(
    index: BenchmarkIndex,
    predictions: Predictions,
    ids: NDArray[np.int64],
    subset_ids: NDArray[np.int32],
    subsets: Sequence[str],
) -> pa.Table:
    """Return the prediction table of the images `ids`, each in the subset that `subset_ids` says."""
    return make_table(
        ids=ids,
        paths=[index.paths[image] for image in ids],
        benchmark=index.manifest.name,
        subsets=subsets,
        subset_ids=subset_ids,
        labels=index.labels[ids],
        statuses=predictions.statuses[ids],
        logits=predictions.logits[ids],
        p_fake=predictions.p_fake[ids],
    )


def _per_class(index: BenchmarkIndex, predictions: Predictions, compat: Compat) -> BenchmarkScores | None:
    """Score each class of the subsets that are nested by class, as in progan/horse; None where none is."""
    ids, subset_ids = index.rows()
    nested = np.array(index.class_names, dtype=object)[index.class_ids[ids]] != ""
    if not nested.any():
        return None
    ids, subset_ids = ids[nested], subset_ids[nested]
    names = [f"{index.subsets[s]}/{index.class_names[index.class_ids[i]]}" for i, s in zip(ids, subset_ids, strict=True)]
    rows = list(dict.fromkeys(names))
    positions = {name: position for position, name in enumerate(rows)}
    row_ids = np.array([positions[name] for name in names], np.int32)
    return score_benchmark(_table(index, predictions, ids, row_ids, rows), compat)


def _mirror(loggers: list[Logger], cfg: DictConfig, scores: BenchmarkScores, console: Console) -> None:
    """Show settings and figures on the dashboards that ``logger=`` chose, and finish them; the run folder is the record."""
    figures = {
        f"report/{name}/{row.subset}": value
        for row in scores.rows
        for name, value in row.metrics.items()
        if value is not None
    }
    figures |= {f"report/{name}": value for name, value in scores.mean.items() if value is not None}
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    for logger in loggers:
        try:
            logger.log_hyperparams(settings)
            logger.log_metrics(figures)
            logger.finalize("success")
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if finish is not None:  # W&B would let a sweep's next job write into this one's run
                finish()
        except Exception as error:  # a dashboard that fails is no reason to call a finished run failed
            print_plain(f"warning: {type(logger).__name__} failed: {error}; the run folder is complete", console)


def _hashed(settings: EvalSettings) -> dict[str, Mapping[str, str | None]]:
    """Return path and hash of all weights; of the backbone, where the checkpoint does not hold them."""
    weights = {"checkpoint": settings.checkpoint, "memory": settings.memory_path}
    hashed: dict[str, Mapping[str, str | None]] = {
        key: {"path": _absolute(path), "sha256": _sha256(path)} for key, path in weights.items()
    }
    assert settings.checkpoint is not None  # it was loaded
    backbone = backbone_source(settings.checkpoint, backbone_folder(settings.backbone))
    return hashed if backbone is None else {**hashed, "backbone": backbone.to_dict()}


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _sha256(path: str | None) -> str | None:
    return None if path is None else path_sha256(Path(path))


class _Clock:
    """When a run began, and the seconds its parts took."""

    def __init__(self) -> None:
        self.started = datetime.now().astimezone()
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self._seconds[part], self._last = now - self._last, now

    def facts(self) -> dict[str, Any]:
        finished = datetime.now().astimezone()
        return {"started": self.started.isoformat(), "finished": finished.isoformat(), "seconds": self._seconds}


def _raise_if_incomplete(settings: EvalSettings, index: BenchmarkIndex, counts: dict[str, int], folder: Path) -> None:
    """Say, once everything is written, how the run falls short of what was asked for."""
    shortfalls = []
    undecodable, non_finite = counts[str(Status.UNDECODABLE)], counts[str(Status.NON_FINITE)]
    if undecodable == len(index):
        shortfalls.append(f"none of the {len(index)} images could be decoded")
    elif undecodable > settings.max_bad_fraction * len(index):
        shortfalls.append(
            f"{undecodable} of {len(index)} images are undecodable, more than max_bad_fraction={settings.max_bad_fraction}"
        )
    if non_finite:
        shortfalls.append(
            f"{non_finite} of {len(index)} images got no finite score: the weights are damaged, or the precision overflows "
            "(trainer.precision=bf16-mixed or 32-true does not)"
        )
    if index.unreadable:
        shortfalls.append(f"folders that cannot be listed: {name_list(index.unreadable)}")
    if settings.require_all and index.missing:
        shortfalls.append(f"subsets not on disk: {name_list(index.missing)}; require_all=true asks for all")
    if shortfalls:
        raise IncompleteRunError(f"{'; '.join(shortfalls)}. What could be evaluated is in {folder}")
