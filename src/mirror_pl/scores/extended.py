"""The report command's metrics: the published ones, and those that ask more of p_fake than a rank or a decision.

What has no definition, because a class has no scored image, is None, as in `score_benchmark`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.calibration import p_fake_of
from mirror_pl.labels import FAKE, REAL
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset
from mirror_pl.scores.curves import eer_on_curve, roc_curve, tpr_on_curve
from mirror_pl.scores.metrics import METRICS, subset_metrics
from mirror_pl.scores.reliability import brier_score, expected_calibration_error, negative_log_likelihood
from mirror_pl.scores.table import raw_logits

FPR: Final = {"tpr_at_0.1_fpr": 0.001, "tpr_at_1_fpr": 0.01, "tpr_at_5_fpr": 0.05}
"""The false positive rate that a metric allows."""

EXTENDED: Final = (*METRICS, *FPR, "eer", "ece", "ece_mass", "brier", "nll")
"""Fractions in [0, 1], but for ``nll``, which is in nats; of the last five the smaller is the better."""


@dataclass(frozen=True)
class ExtendedScores:
    """The metrics of a benchmark.

    Attributes:
        rows: Subset to `EXTENDED` metric to value, in the table's order.
        counts: Subset to scored reals, scored fakes, and images without a score.
        mean: Unweighted mean of each metric over the subsets where it is defined; None where there is none.
        mean_rows: How many subsets entered that mean.
        pooled: All distinct images together; shared reals count once.
        pooled_counts: Scored reals, scored fakes, and images without a score.
    """

    rows: Mapping[str, Mapping[str, float | None]]
    counts: Mapping[str, tuple[int, int, int]]
    mean: Mapping[str, float | None]
    mean_rows: Mapping[str, int]
    pooled: Mapping[str, float | None]
    pooled_counts: tuple[int, int, int]


def extended_scores(table: pa.Table) -> ExtendedScores:
    """Compute all metrics of a prediction table; on `METRICS` they are those of `score_benchmark`.

    Args:
        table: Rows of one benchmark, in the order of its subsets.
    """
    data = columns(table)

    def score(here: NDArray[np.int64]) -> tuple[dict[str, float | None], tuple[int, int, int]]:
        kept = here[data.scored[here]]
        label = data.label[kept]
        reals = int(np.count_nonzero(label == REAL))
        counts = (reals, len(kept) - reals, len(here) - len(kept))
        return extended_metrics(label, data.logit[kept], data.p_fake[kept]), counts

    scored = {name: score(here) for name, here in zip(data.names, rows_by_subset(data), strict=True)}
    rows = {name: metrics for name, (metrics, _) in scored.items()}
    mean, mean_rows = _average(list(rows.values()))
    pooled, pooled_counts = score(distinct_rows(data))
    return ExtendedScores(
        rows, {name: counts for name, (_, counts) in scored.items()}, mean, mean_rows, pooled, pooled_counts
    )


def before_calibration(table: pa.Table) -> dict[str, float | None] | None:
    """Return the `EXTENDED` metrics of all distinct images by the detector's own logits; None of what is not calibrated."""
    if "raw_logit" not in table.column_names:
        return None
    data, logit = columns(table), raw_logits(table)
    kept = distinct_rows(data)
    kept = kept[data.scored[kept]]
    return extended_metrics(data.label[kept], logit[kept], p_fake_of(logit[kept]))


def extended_metrics(
    label: NDArray[np.integer], logit: NDArray[np.floating], p_fake: NDArray[np.floating]
) -> dict[str, float | None]:
    """Compute the `EXTENDED` metrics of one subset, each None where it is undefined.

    Args:
        label: ``(S,)``, 0 real and 1 fake; S may be 0.
        logit: ``(S,)``, above 0 means decided fake.
        p_fake: ``(S,)`` in [0, 1].
    """
    metrics = subset_metrics(label, logit, p_fake)
    both = (label == REAL).any() and (label == FAKE).any()
    roc = roc_curve(label, p_fake) if both else None
    metrics |= {name: tpr_on_curve(roc, fpr) if roc else None for name, fpr in FPR.items()}
    metrics["eer"] = eer_on_curve(roc) if roc else None
    metrics["ece"] = expected_calibration_error(label, p_fake) if len(label) else None
    metrics["ece_mass"] = expected_calibration_error(label, p_fake, equal_mass=True) if len(label) else None
    metrics["brier"] = brier_score(label, p_fake) if len(label) else None
    metrics["nll"] = negative_log_likelihood(label, logit) if len(label) else None
    return metrics


def _average(rows: Sequence[Mapping[str, float | None]]) -> tuple[dict[str, float | None], dict[str, int]]:
    """Return the unweighted mean of each metric over the rows where it is defined, and how many those are."""
    mean: dict[str, float | None] = {}
    mean_rows: dict[str, int] = {}
    for name in EXTENDED:
        defined = [value for row in rows if (value := row[name]) is not None]
        mean_rows[name] = len(defined)
        mean[name] = float(np.mean(defined)) if defined else None
    return mean, mean_rows
