"""From a run's prediction table to its row of the leaderboard: metrics with intervals, at 0.5 or another threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mirror_pl.benchmarks import published_for
from mirror_pl.errors import ConfigError, name_list, nearest
from mirror_pl.reports.detector_names import DetectorName
from mirror_pl.reports.gathered_runs import GatheredRun
from mirror_pl.reports.leaderboard import Result, Row
from mirror_pl.reports.published_csv import deltas
from mirror_pl.scores.bootstrap import Estimate, bootstrap, estimate
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset
from mirror_pl.scores.extended import before_calibration, extended_scores
from mirror_pl.scores.metrics import POOLED
from mirror_pl.scores.threshold import FittedThreshold, bal_acc_at, fit_threshold
from mirror_pl.texts import printable


@dataclass(frozen=True)
class SharedThreshold:
    """A detector's threshold, and the images that it was fitted on, by their whole paths."""

    fitted: FittedThreshold
    images: pa.Array


def fit_on(run: GatheredRun, subset: str | None) -> SharedThreshold:
    """Fit a detector's threshold on a run of it, or on one subset of that.

    Raises:
        ConfigError: If the run has no such subset.
        DataError: If the set lacks scored images of a class.
    """
    table = run.read()
    data = columns(table)
    if subset is None:
        rows = distinct_rows(data)
    elif subset in data.names:
        rows = rows_by_subset(data)[data.names.index(subset)]
    else:
        raise ConfigError(
            f"threshold_from: {run.benchmark} has no subset {subset} in {run.folder}.{nearest(subset, data.names)} "
            f"It has: {name_list(data.names, 30)}"
        )
    # Images without a score take no part in the fit; they belong to the set all the same.
    images = whole_paths(run.data_root, table.take(pa.array(rows)))
    rows = rows[data.scored[rows]]
    return SharedThreshold(fit_threshold(data.label[rows], data.logit[rows]), images)


def apply_to(threshold: SharedThreshold, run: GatheredRun, table: pa.Table) -> dict[str, float | None]:
    """Return each subset's balanced accuracy at a threshold; None where it is undefined, or was fitted on its images."""
    data = columns(table)
    # Fitted and judged on the same image, even one real that serves several subsets, it would flatter the detector.
    known = pc.is_in(whole_paths(run.data_root, table), value_set=threshold.images)
    fitted_on = known.to_numpy(zero_copy_only=False)
    found: dict[str, float | None] = {}
    for name, here in zip(data.names, rows_by_subset(data), strict=True):
        kept = here[data.scored[here]]
        shares = bool(np.any(fitted_on[here]))
        found[name] = None if shares else bal_acc_at(data.label[kept], data.logit[kept], threshold.fitted.logit)
    return found


def whole_paths(root: str, table: pa.Table) -> pa.Array:
    """Return the paths in a table with the data root before them; one of a real that a user named is whole already."""
    paths = table["path"].combine_chunks()
    if isinstance(paths, pa.ChunkedArray):
        paths = paths.chunk(0)
    below = pc.binary_join_element_wise(root.rstrip("/"), paths, "/")
    return pc.if_else(pc.starts_with(paths, "/"), paths, below)


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
        return {name: estimate(value, replicates_of.get(name), level) for name, value in values.items()}

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
        before=before_calibration(table),
    )


def _mean_at_threshold(rows: tuple[Row, ...]) -> float | None:
    """Average over the rows that the headline is a mean over; None where the threshold does not apply to one of them."""
    defined = [row for row in rows if row.metrics["bal_acc"].value is not None]
    values = [row.at_threshold for row in defined if row.at_threshold is not None]
    return float(np.mean(values)) if values and len(values) == len(defined) else None
