"""The evaluation job: a detector over a benchmark, into a run folder."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.config.build import build, build_detector, build_manifest, build_trainer, is_embedded
from mirror_pl.errors import ConfigError, IncompleteRunError, name_list
from mirror_pl.experiment import evaluate
from mirror_pl.files import path_sha256
from mirror_pl.provenance import git_revision, machine, versions
from mirror_pl.reports import RunFolder, print_report
from mirror_pl.scores import Status, make_table, score_benchmark

if TYPE_CHECKING:
    import pyarrow as pa

    from mirror_pl.benchmarks import BenchmarkIndex


def run(cfg: DictConfig) -> None:
    """Evaluate as `cfg` says and write the run folder.

    Raises:
        MirrorError: Before anything is written, if settings, data or checkpoint are not usable; after everything was
            written, an `IncompleteRunError`, if too many images were bad or a required subset is absent.
    """
    if cfg.compat not in (None, "published"):
        raise ConfigError(f"compat: must be null or published, got {cfg.compat!r}")
    started = datetime.now().astimezone()
    console = Console()
    manifest = build_manifest(cfg)
    data = build(cfg.data, manifest=manifest, data_root=cfg.data_root)
    index = data.index
    trainer = build_trainer(cfg)
    folder = RunFolder(Path(cfg.output_dir)) if trainer.is_global_zero else None
    if folder:
        folder.write_config(OmegaConf.to_yaml(cfg, resolve=True))
        console.print(
            f"{manifest.title}: {len(index):,} images of {len(index.subsets)} of {len(manifest.subsets)} subsets "
            f"in {index.data_root}",
            soft_wrap=True,
        )
    seconds = {"load": -time.perf_counter()}
    detector = build_detector(cfg)
    seconds["load"] += time.perf_counter()
    seconds["score"] = -time.perf_counter()
    predictions = evaluate(detector, data, trainer)
    seconds["score"] += time.perf_counter()
    if folder is None:  # another process writes the results
        return

    table = make_table(
        paths=index.paths,
        benchmark=manifest.name,
        subsets=manifest.subsets,
        subset_ids=index.subset_ids,
        labels=index.labels,
        statuses=predictions.statuses,
        logits=predictions.logits,
        p_fake=predictions.p_fake,
    )
    scores = score_benchmark(table, cfg.compat)
    counts = {str(status): _count(table, status) for status in Status}
    folder.write_predictions(table)
    folder.write_bad_images(
        (flaw.id, index.paths[flaw.id], manifest.subsets[index.subset_ids[flaw.id]], str(flaw.status), flaw.reason)
        for flaw in predictions.flaws
    )
    name = manifest.published_key if cfg.compat == "published" else manifest.name
    report = folder.write_report(f"{name}_{started:%Y%m%d_%H%M%S}", scores)
    folder.write_metrics(index, scores, images=counts, compat=cfg.compat)
    folder.complete(
        {
            "command": sys.argv,
            "started": started.isoformat(),
            "finished": datetime.now().astimezone().isoformat(),
            "seconds": seconds,
            "images": {"indexed": len(index), **counts},
            "data": {"root": str(index.data_root.resolve()), "fingerprint": index.fingerprint()},
            "checkpoint": {"path": str(Path(cfg.checkpoint).resolve()), "sha256": path_sha256(Path(cfg.checkpoint))},
            "detector": detector.config.to_dict(),
            "device": str(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "report": report.name,
            "versions": versions(),
            "revision": git_revision(),
            "machine": machine(),
        }
    )
    print_report(index, scores, console)
    if is_embedded(cfg):
        console.print("[bold]The embedded detector has random weights: these numbers mean nothing.[/bold]")
    console.print(f"Report: {report}", soft_wrap=True, highlight=False)
    _raise_if_incomplete(cfg, index, counts, folder.path)


def _count(table: pa.Table, status: Status) -> int:
    total: Any = pc.sum(pc.equal(table["status"].cast("string"), str(status)))
    return total.as_py() or 0


def _raise_if_incomplete(cfg: DictConfig, index: BenchmarkIndex, counts: dict[str, int], folder: Path) -> None:
    """Say, once everything is written, how the run falls short of what was asked for."""
    shortfalls = []
    undecodable = counts[str(Status.UNDECODABLE)]
    if undecodable == len(index):
        shortfalls.append(f"none of the {len(index)} images could be decoded")
    elif undecodable > cfg.max_bad_fraction * len(index):
        shortfalls.append(
            f"{undecodable} of {len(index)} images are undecodable, more than max_bad_fraction={cfg.max_bad_fraction}"
        )
    if index.unreadable:
        shortfalls.append(f"folders that cannot be listed: {name_list(index.unreadable)}")
    if cfg.require_all and index.missing:
        shortfalls.append(f"subsets not on disk: {name_list(index.missing)}; require_all=true asks for all")
    if shortfalls:
        raise IncompleteRunError(f"{'; '.join(shortfalls)}. What could be evaluated is in {folder}")
