"""Measured beside published: the difference of the mean balanced accuracy, for each source that prints one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirror_pl.benchmarks import PublishedNumber
from mirror_pl.texts import csv_text


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
