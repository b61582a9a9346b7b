"""From a run's prediction table to its row of the leaderboard: every metric, with its interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.benchmarks import published_for
from mirror_pl.reports.deltas import deltas
from mirror_pl.reports.detector_names import DetectorName
from mirror_pl.reports.gathered_runs import GatheredRun
from mirror_pl.reports.leaderboard import Estimate, Result, Row
from mirror_pl.scores.bootstrap import bootstrap, interval
from mirror_pl.scores.extended import extended_scores
from mirror_pl.scores.metrics import POOLED
from mirror_pl.texts import printable


def measure(
    run: GatheredRun,
    table: pa.Table,
    detector: DetectorName,
    at_threshold: Mapping[str, float | None],
    *,
    replicates: int,
    seed: int,
    level: float,
) -> Result:
    """Compute the figures of one run.

    Args:
        run: What the run says of itself.
        table: Its prediction table.
        detector: Whose run it is.
        at_threshold: Balanced accuracy of each subset at a fitted threshold; empty for none.
        replicates: Of the bootstrap.
        seed: Of the bootstrap.
        level: Of the intervals.
    """
    scores = extended_scores(table)
    drawn = bootstrap(table, replicates=replicates, seed=seed)

    def estimates(
        values: Mapping[str, float | None], replicates_of: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, Estimate]:
        return {name: _estimate(value, replicates_of.get(name), level) for name, value in values.items()}

    rows = tuple(
        Row(name, *scores.counts[name], estimates(values, drawn.rows[name]), at_threshold.get(name))
        for name, values in scores.rows.items()
    )
    published = published_for(run.benchmark, detector.published_as) if detector.published_as else ()
    return Result(
        benchmark=run.benchmark,
        detector=detector.label,
        folder=printable(run.folder.resolve()),
        finished=run.finished.isoformat(timespec="seconds"),
        rows=rows,
        mean=estimates(scores.mean, drawn.mean),
        mean_rows=scores.mean_rows,
        pooled=Row(POOLED, *scores.pooled_counts, estimates(scores.pooled, drawn.pooled)),
        missing=run.missing_subsets,
        published=tuple(deltas(published, scores.mean["bal_acc"])),
        at_threshold=_mean_at_threshold(rows),
        replicates=drawn,
    )


def _estimate(value: float | None, replicates: NDArray[np.float64] | None, level: float) -> Estimate:
    found = None if value is None or replicates is None else interval(replicates, level)
    return Estimate(value) if found is None else Estimate(value, *found)


def _mean_at_threshold(rows: tuple[Row, ...]) -> float | None:
    """Average over the rows that the headline is a mean over; None where the threshold does not apply to one of them."""
    defined = [row for row in rows if row.metrics["bal_acc"].value is not None]
    values = [row.at_threshold for row in defined if row.at_threshold is not None]
    return float(np.mean(values)) if values and len(values) == len(defined) else None
