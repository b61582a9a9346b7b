"""The published report, a CSV per benchmark, and what is published beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror_pl.benchmarks import PublishedNumber
from mirror_pl.scores import METRICS, BenchmarkScores
from mirror_pl.texts import csv_text

HEADER: Final = ("Dataset", "Acc", "Real_Acc", "Fake_Acc", "Bal_Acc", "AUC", "AP")


def published_csv(scores: BenchmarkScores, pooled_row: str | None = None) -> str:
    """Return the report as CSV text: fractions, one row per subset, then MEAN where there are two rows or more.

    Beyond what the published script can express: an undefined value is an empty field, and where some row is missing from
    some mean, a row MEAN_ROWS says for each column how many rows entered. Last comes the row over all images together,
    under the name `pooled_row`, where the published report of the benchmark has one.
    """
    rows: list[tuple[object, ...]] = [HEADER]
    rows += [(row.subset, *map(row.metrics.get, METRICS)) for row in scores.rows]
    if len(scores.rows) > 1:
        rows.append(("MEAN", *map(scores.mean.get, METRICS)))
        if scores.mean_is_partial and scores.compat is None:  # the published report has no such row
            rows.append(("MEAN_ROWS", *map(scores.mean_rows.get, METRICS)))
        if pooled_row is not None:
            rows.append((pooled_row, *map(scores.pooled.metrics.get, METRICS)))
    return csv_text(rows)


@dataclass(frozen=True)
class Delta:
    """A measured mean balanced accuracy beside a published one; fractions, `difference` measured minus published."""

    benchmark: str
    detector: str
    source: str
    published: float
    measured: float
    difference: float


def deltas(numbers: Sequence[PublishedNumber], measured: float | None) -> list[Delta]:
    """Compare what was measured with each published number; nothing where nothing was measured."""
    if measured is None:
        return []
    return [Delta(n.benchmark, n.detector, n.source, n.bal_acc, measured, measured - n.bal_acc) for n in numbers]


def deltas_csv(rows: Sequence[Delta]) -> str:
    """Return the comparison as CSV text, one row a source."""
    header = ["benchmark", "detector", "source", "published", "measured", "difference"]
    return csv_text([header, *([d.benchmark, d.detector, d.source, d.published, d.measured, d.difference] for d in rows)])
