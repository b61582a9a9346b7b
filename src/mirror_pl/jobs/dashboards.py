"""What ``logger=`` chose, from a job's start to its end: dashboards mirror the run folder, and decide about nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mirror_pl.callbacks.loggers import SafeLogger, SafeWandbLogger
from mirror_pl.config.build import start_loggers
from mirror_pl.errors import EXIT_DEFECT, MirrorError
from mirror_pl.images import UndecodableImageError, decode
from mirror_pl.labels import FAKE, LABEL_NAMES
from mirror_pl.reports import print_plain
from mirror_pl.reports.wandb_run import SampleImage, log_evaluation, upload_predictions
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset

if TYPE_CHECKING:
    import lightning as L
    import pyarrow as pa
    from lightning.pytorch.loggers import Logger
    from rich.console import Console

    from mirror_pl.benchmarks import BenchmarkIndex
    from mirror_pl.reports import Delta
    from mirror_pl.scores import BenchmarkScores

PREDICTIONS_FILE = "predictions.parquet"

SAMPLE_PX = 256
"""Longest side of a sample image."""


@contextmanager
def dashboards(trainer: L.Trainer, cfg: DictConfig, console: Console) -> Iterator[None]:
    """Start the loggers of a job, show its settings, and finish them however the block ends, for a sweep's next job.

    Args:
        trainer: Its loggers are those of `build_trainer`; those that cannot start are left out from then on.
        cfg: The job's settings.
        console: Where the command that uploads what is not uploaded is printed.
    """
    start_loggers(trainer)
    exit_code = EXIT_DEFECT
    try:
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)
        yield
        exit_code = 0
    except MirrorError as error:
        exit_code = error.exit_code
        raise
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, SafeLogger) and (note := logger.finish(exit_code)):
                print_plain(note, console)


def show_facts(trainer: L.Trainer, facts: Mapping[str, Any]) -> None:
    """Add to the settings on W&B, under ``run``, what is known of a run besides them: weights, detector, versions, data."""
    for logger in trainer.loggers:
        if isinstance(logger, SafeWandbLogger) and logger.run is not None:
            logger.attempt(partial(logger.run.config.update, {"run": dict(facts)}, allow_val_change=True))


def mirror(
    trainer: L.Trainer,
    cfg: DictConfig,
    *,
    index: BenchmarkIndex,
    table: pa.Table,
    scores: BenchmarkScores,
    compared: Sequence[Delta],
    detector: str,
    facts: Mapping[str, Any],
) -> None:
    """Show what an evaluation found; a dashboard that fails is left out, with a warning.

    Args:
        trainer: Of the job; its loggers are at work, within `dashboards`.
        cfg: The job's settings. ``logger.images`` and ``logger.predictions`` say what of the data is shown.
        index: Where the images are.
        table: The prediction table.
        scores: The report.
        compared: The published numbers beside the measured one.
        detector: Name of what was evaluated.
        facts: What ``run.json`` says of the run.
    """
    show_facts(trainer, {"detector_name": detector, **{key: value for key, value in facts.items() if key != "config"}})

    @cache  # for all loggers
    def samples() -> list[SampleImage]:
        return sample_images(index, table, cfg.logger.get("images", 0))

    def on_wandb(run: Any) -> None:
        log_evaluation(run, index.manifest, table, scores, compared, detector, samples())
        if cfg.logger.get("predictions", False):
            upload_predictions(run, Path(cfg.output_dir) / PREDICTIONS_FILE)

    for logger in trainer.loggers:
        if not isinstance(logger, SafeLogger):
            continue
        if not isinstance(logger, SafeWandbLogger):
            logger.log_metrics(report_figures(scores))
            logger.attempt(lambda it=logger: _show_on_tensorboard(it.logger, table, samples))  # type: ignore[misc]
        elif logger.run is not None:
            logger.attempt(partial(on_wandb, logger.run))


def report_figures(scores: BenchmarkScores) -> dict[str, float]:
    """Return the figures that any logger takes: ``report/METRIC/SUBSET``, and ``report/METRIC`` for the mean."""
    figures = {
        f"report/{name}/{row.subset}": value
        for row in scores.rows
        for name, value in row.metrics.items()
        if value is not None
    }
    return figures | {f"report/{name}": value for name, value in scores.mean.items() if value is not None}


def _show_on_tensorboard(logger: Logger, table: pa.Table, samples: Callable[[], list[SampleImage]]) -> None:
    """Add a precision-recall curve for each subset, and the sample images."""
    from lightning.pytorch.loggers import TensorBoardLogger

    if not isinstance(logger, TensorBoardLogger):
        return
    data = columns(table)
    for name, rows in zip(data.names, rows_by_subset(data), strict=True):
        here = rows[data.scored[rows]]
        if len(here):
            logger.experiment.add_pr_curve(f"precision_recall/{name}", data.label[here], data.p_fake[here])
    for sample in samples():
        tag = f"{sample.kind}/{sample.subset}/{LABEL_NAMES[sample.label]} {sample.p_fake:.3f} {sample.path}"
        logger.experiment.add_image(tag, np.asarray(sample.image), dataformats="HWC")


def sample_images(index: BenchmarkIndex, table: pa.Table, count: int) -> list[SampleImage]:
    """Choose the images that say most of a detector, `count` of each kind, each image once a kind, and make them small.

    The kinds: those it was most certain of, and right; most certain of, and wrong; least certain of. How certain it was is
    how far the logit is from 0; of equals, those of lower ids are taken. What cannot be read is left out.
    """
    data = columns(table)
    rows = distinct_rows(data)
    rows = rows[data.scored[rows]]
    certainty = np.abs(data.logit[rows])
    right = (data.logit[rows] > 0) == (data.label[rows] == FAKE)
    kinds = {
        "certain_right": rows[right][np.argsort(-certainty[right], kind="stable")],
        "certain_wrong": rows[~right][np.argsort(-certainty[~right], kind="stable")],
        "least_certain": rows[np.argsort(certainty, kind="stable")],
    }
    samples = []
    for kind, ranked in kinds.items():
        for row in ranked[:count]:
            with suppress(UndecodableImageError):  # it could be read when it was scored
                image = decode(index.source(int(data.id[row]))).image
                image.thumbnail((SAMPLE_PX, SAMPLE_PX))
                path = str(table["path"][int(row)])
                score = float(data.p_fake[row]), float(data.logit[row])
                samples.append(SampleImage(kind, image, path, data.names[data.subset[row]], int(data.label[row]), *score))
    return samples
