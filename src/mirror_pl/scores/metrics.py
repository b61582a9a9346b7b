"""The published metrics, per subset and averaged, computed from a prediction table in exact or float64 arithmetic.

A decision is the sign of the logit; ranks are those of the float32 ``p_fake``, as in the published report. What has no
definition, because a class has no scored image, is None and never a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.labels import FAKE, REAL
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset

METRICS: Final = ("acc", "real_acc", "fake_acc", "bal_acc", "auc", "ap")
"""All fractions in [0, 1], in the published order."""

POOLED: Final = "POOLED"
"""Name of the row over all images together."""

Compat = Literal["published"] | None

COPIED_RELEASE: Final = "MIRROR's code of April 2026"
"""Whose quirks "published" gives. That of October 2026 raises an error for an image that it cannot read."""


@dataclass(frozen=True)
class SubsetScores:
    """One row of a report.

    Attributes:
        subset: Its name.
        reals: Scored real images.
        fakes: Scored fake images.
        unscored: Images without a score, undecodable or non-finite.
        metrics: Value of each of `METRICS`, or None where it is undefined.
    """

    subset: str
    reals: int
    fakes: int
    unscored: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class BenchmarkScores:
    """The report of a benchmark: `rows` in the manifest's order and their unweighted mean (the published MEAN).

    Attributes:
        rows: One a subset.
        mean: Mean of each metric over the rows where it is defined; None where there is none.
        mean_rows: How many rows entered that mean.
        pooled: All distinct images together; shared reals count once.
        compat: Whose quirks the figures follow; None for none.
    """

    rows: tuple[SubsetScores, ...]
    mean: Mapping[str, float | None]
    mean_rows: Mapping[str, int]
    pooled: SubsetScores
    compat: Compat = None

    @property
    def mean_is_partial(self) -> bool:
        """Whether some row is missing from some mean."""
        return any(count < len(self.rows) for count in self.mean_rows.values())


def score_benchmark(table: pa.Table, compat: Compat = None, seed: int = 0) -> BenchmarkScores:
    """Compute the report of a prediction table.

    Args:
        table: Rows of one benchmark, in the order of its subsets.
        compat: "published" gives two quirks of the published script: a class without images has accuracy 0, and an
            image without a score is replaced by a random other one of its subset, with that one's label.
        seed: Of the random replacement.
    """
    data = columns(table)
    generator = np.random.default_rng(seed)

    def score(name: str, here: NDArray[np.integer]) -> SubsetScores:
        kept = here[data.scored[here]]
        unscored = len(here) - len(kept)
        if compat == "published" and len(kept):
            kept = np.concatenate([kept, generator.choice(kept, unscored)])
        metrics = subset_metrics(data.label[kept], data.logit[kept], data.p_fake[kept], compat)
        reals = int((data.label[kept] == REAL).sum())
        return SubsetScores(name, reals, len(kept) - reals, unscored, metrics)

    rows = [score(name, here) for name, here in zip(data.names, rows_by_subset(data), strict=True)]
    return average(rows, score(POOLED, distinct_rows(data)), compat)


def average(rows: list[SubsetScores], pooled: SubsetScores, compat: Compat = None) -> BenchmarkScores:
    """Put a report together, with the unweighted mean of each metric over the rows where it is defined."""
    mean: dict[str, float | None] = {}
    counts: dict[str, int] = {}
    for name in METRICS:
        defined = [value for row in rows if (value := row.metrics[name]) is not None]
        counts[name] = len(defined)
        mean[name] = float(np.mean(defined)) if defined else None
    return BenchmarkScores(tuple(rows), mean, counts, pooled, compat)


def subset_metrics(
    label: NDArray[np.integer], logit: NDArray[np.floating], p_fake: NDArray[np.floating], compat: Compat = None
) -> dict[str, float | None]:
    """Compute the published metrics of one subset.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        logit: ``(S,)``, above 0 means decided fake.
        p_fake: ``(S,)``, ranks the images.
        compat: "published": a class without images has accuracy 0 instead of none.
    """
    decided_fake = logit > 0
    correct = decided_fake == (label == FAKE)
    real_acc = _fraction(correct[label == REAL])
    fake_acc = _fraction(correct[label == FAKE])
    if compat == "published":
        real_acc, fake_acc = real_acc or 0.0, fake_acc or 0.0
    both = real_acc is not None and fake_acc is not None
    return {
        "acc": _fraction(correct),
        "real_acc": real_acc,
        "fake_acc": fake_acc,
        "bal_acc": (real_acc + fake_acc) / 2 if both else None,  # type: ignore[operator]
        "auc": _if_both_classes(auroc, label, p_fake),
        "ap": _if_both_classes(average_precision, label, p_fake),
    }


def _fraction(correct: NDArray[np.bool_]) -> float | None:
    return float(np.count_nonzero(correct) / len(correct)) if len(correct) else None


def _if_both_classes(
    metric: Callable[[NDArray[np.integer], NDArray[np.floating]], float],
    label: NDArray[np.integer],
    score: NDArray[np.floating],
) -> float | None:
    return metric(label, score) if (label == REAL).any() and (label == FAKE).any() else None


def auroc(label: NDArray[np.integer], score: NDArray[np.floating]) -> float:
    """Area under the ROC curve: the chance that a fake scores above a real, ties counting half. 1 is perfect, 0.5 chance.

    Exact: counts are integers, and one division is made. Both classes must be there.
    """
    reals, fakes = _counts_by_score(label, score)
    below = np.cumsum(reals) - reals
    return float(np.sum(fakes * (2 * below + reals)) / (2 * reals.sum() * fakes.sum()))


def average_precision(label: NDArray[np.integer], score: NDArray[np.floating]) -> float:
    """Average precision with fake as the positive class: sum over thresholds of precision x gain in recall.

    Equal scores share one threshold, as in scikit-learn. Both classes must be there.
    """
    reals, fakes = (counts[::-1] for counts in _counts_by_score(label, score))
    found = np.cumsum(fakes)
    precision = found / (found + np.cumsum(reals))
    return float(np.sum(precision * fakes) / found[-1])


def _counts_by_score(label: NDArray[np.integer], score: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count reals and fakes at each distinct score, lowest first."""
    _, position = np.unique(score, return_inverse=True)
    size = int(position.max()) + 1
    fakes = np.bincount(position[label == FAKE], minlength=size)
    reals = np.bincount(position[label == REAL], minlength=size)
    return reals, fakes
