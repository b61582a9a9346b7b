"""The robustness job: an evaluation that scores each image under all conditions of a suite, and says what they change."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import DictConfig
from rich.progress import track

from mirror_pl.config.build_detector import build_policy
from mirror_pl.config.schema import RobustnessSettings, read_settings
from mirror_pl.errors import ConfigError
from mirror_pl.files import write_text
from mirror_pl.images.suite import FORMAT_FAMILY, Suite, parse_suite
from mirror_pl.jobs.dependencies import weights_of
from mirror_pl.jobs.eval import evaluate
from mirror_pl.reports import print_plain
from mirror_pl.reports.gathered_runs import find_runs, runs_named
from mirror_pl.reports.measure import SharedThreshold, fit_on, whole_paths
from mirror_pl.reports.robustness import FILE, SuiteResult, as_json, print_robustness, write_results
from mirror_pl.scores.robustness import score_conditions
from mirror_pl.scores.table import with_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mirror_pl.callbacks import Predictions
    from mirror_pl.jobs.eval import Job
    from mirror_pl.jobs.evaluation_record import Record
    from mirror_pl.reports import RunFolder


def run(cfg: DictConfig) -> None:
    """Evaluate under all conditions as `cfg` says, and write the run folder.

    It is that of ``mirror_pl.eval`` on the images as they are, with ``conditions.parquet``, the table under each condition,
    ``robustness.json``, ``.csv``, ``.svg`` and ``.html`` besides.

    Raises:
        MirrorError: As of ``mirror_pl.eval``.
    """
    settings = read_settings(cfg, RobustnessSettings)
    suite = parse_suite(settings.suite, settings.perturb_seed)
    threshold = None if settings.threshold_from is None else _threshold(settings, Path(settings.threshold_from))
    also = partial(_write, settings=settings, suite=suite, threshold=threshold)
    evaluate(cfg, RobustnessSettings, conditions=suite.conditions, also=also)


def _threshold(settings: RobustnessSettings, folder: Path) -> SharedThreshold:
    """Fit a threshold on the run that ``threshold_from`` names.

    Raises:
        ConfigError: If that is not one complete run, or one whose logits were made in another way.
        DataError: If there is no run, or it has scored no image of a class.
    """
    runs = runs_named([folder], [run for run in find_runs([folder]) if run.facts is not None])
    if len(runs) != 1:
        raise ConfigError(f"threshold_from: expected the folder of one complete run, got {folder} with {len(runs)}")
    facts = runs[0].facts or {}
    for name, file in weights_of(settings).items():
        then = (facts.get(name) or {}).get("sha256")
        if then != file.sha256:
            raise ConfigError(f"threshold_from: {folder} is of another {name}: sha256 {then} there, {file.sha256} here")
    if settings.calibration is None and facts.get("calibrated"):
        raise ConfigError(f"threshold_from: {folder} is calibrated, and this run is not; give the same calibration to both")
    now = asdict(build_policy(settings))
    before = {key: (facts.get("protocol") or now).get(key) for key in now}
    if before != now:
        raise ConfigError(f"threshold_from: {folder} is of other crops: {before} there, {now} here")
    return fit_on(runs[0], None)


def _shared(threshold: SharedThreshold, job: Job, record: Record) -> bool:
    paths = whole_paths(str(job.data.index.data_root.resolve()), record.table)
    return bool(pc.any(pc.is_in(paths, value_set=threshold.images)).as_py())


def _write(
    job: Job,
    detector: str,
    record: Record,
    predictions: Predictions,
    folder: RunFolder,
    *,
    settings: RobustnessSettings,
    suite: Suite,
    threshold: SharedThreshold | None,
) -> dict[str, Any]:
    """Write what the suite's conditions come to."""
    index = job.data.index
    ids, _ = index.rows()
    count = len(suite.conditions)
    if threshold is not None and _shared(threshold, job, record):
        print_plain("threshold_from: its set shares images with this one, so that its threshold is not applied", job.console)
        threshold = None
    tables = [_with_scores(record.table, predictions.every(count, place), ids) for place in range(1, count)]
    names = [str(condition) for condition in suite.conditions]
    folder.write_conditions(pa.concat_tables(map(_named, [record.table, *tables], names)))
    scores = score_conditions(
        record.table,
        tables,
        {family: tuple(map(str, members)) for family, members in suite.families.items()},
        outside=(FORMAT_FAMILY,),
        other_threshold=None if threshold is None else threshold.fitted.logit,
        replicates=settings.replicates,
        level=settings.level,
        progress=lambda tables: track(tables, "Measuring", console=job.console, transient=True),
    )
    result = SuiteResult(
        suite=suite.name,
        title=suite.title,
        source=suite.source,
        benchmark=index.manifest.title,
        detector=detector,
        threshold_from=None if threshold is None else settings.threshold_from,
        level=settings.level,
        replicates=settings.replicates,
        scores=scores,
    )
    write_text(folder.path / FILE, as_json(result))
    write_results([result], folder.path)
    print_robustness(result, job.console)
    print_plain(f"Robustness: {folder.path / 'robustness.html'}", job.console)
    return {"suite": suite.name, "conditions": names}


def _with_scores(table: pa.Table, predictions: Predictions, ids: NDArray[np.int64]) -> pa.Table:
    return with_scores(
        table,
        statuses=predictions.statuses[ids],
        logits=predictions.logits[ids],
        p_fake=predictions.p_fake[ids],
        raw_logits=None if predictions.raw_logits is None else predictions.raw_logits[ids],
    )


def _named(table: pa.Table, name: str) -> pa.Table:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int32()), [name])
    return table.append_column("condition", column)
