"""Published balanced accuracies, with their sources, to be shown beside measured ones.

``published.csv`` holds them in percent as printed: ``readme-2026-04`` is the README of the released code of April 2026,
``project-readme`` the README of the project's later release, ``paper`` arXiv 2602.02222; each with its own backbones and one
``other`` detector. ``dda-readme-2026-04-13`` is what DDA's own README prints of DDA. The sources disagree in places; all are
shown.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("published.csv")
_OTHER_COLUMNS = ("source", "benchmark", "group", "other", "other_name")


@dataclass(frozen=True)
class PublishedNumber:
    """A published mean balanced accuracy.

    Attributes:
        source: Where it is printed.
        benchmark: Name of the benchmark here.
        detector: "mirror" with the name of its backbone, as in "mirror/dinov3_l", or the name of another detector.
        bal_acc: Fraction in [0, 1].
    """

    source: str
    benchmark: str
    detector: str
    bal_acc: float


@cache
def published_numbers() -> tuple[PublishedNumber, ...]:
    """Return all published numbers, in the order of the file."""
    numbers = []
    with _FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cells = {f"mirror/{name}": value for name, value in row.items() if name not in _OTHER_COLUMNS}
            cells[row["other_name"]] = row["other"]
            numbers += [
                PublishedNumber(row["source"], row["benchmark"], detector, round(float(value) / 100, 6))
                for detector, value in cells.items()
                if value
            ]
    return tuple(numbers)


def published_for(benchmark: str, detector: str) -> tuple[PublishedNumber, ...]:
    """Return what is published of a detector on a benchmark, one entry a source; empty where nothing is."""
    return tuple(n for n in published_numbers() if n.benchmark == benchmark and n.detector == detector)
