"""The geometry of the page's charts: from figures to SVG paths. Names are no part of it; templates write and escape them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.curves import Curve
from mirror_pl.scores.reliability import Reliability

SERIES: Final = 8
"""Colours that are told apart by colour-blind readers too; further detectors begin again with dashes."""


@dataclass(frozen=True)
class Frame:
    """A chart's size and margins, in units of its own; axes go from 0 to 1, the vertical one to `highest`."""

    width: int
    height: int
    left: int = 30
    right: int = 8
    top: int = 8
    bottom: int = 30
    highest: float = 1.0

    def x(self, value: float) -> float:
        """Return where a value of the horizontal axis is."""
        return round(self.left + value * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        """Return where a value of the vertical axis is."""
        return round(self.top + (1 - value / self.highest) * (self.height - self.top - self.bottom), 1)

    def line(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> str:
        """Return the path of a line through points."""
        points = [f"{self.x(float(a)):g} {self.y(float(b)):g}" for a, b in zip(x, y, strict=True)]
        # What falls on the point before, at a tenth of a unit, is not seen.
        kept = [point for before, point in zip([None, *points], points, strict=False) if point != before]
        return "M" + "L".join(kept)


ROC: Final = Frame(180, 180)
RELIABILITY: Final = Frame(300, 270)
RISK: Final = Frame(300, 270, left=34, highest=0.5)
HISTOGRAM: Final = Frame(180, 110, left=8, bottom=22)


@dataclass(frozen=True)
class Dot:
    """A point of a reliability diagram; its area grows with the share of images, and a bar shows its interval."""

    x: float
    y: float
    radius: float
    low: float
    high: float


@dataclass(frozen=True)
class ChartLine:
    """One detector's line in a chart; `series` is its position among the detectors."""

    series: int
    path: str
    dots: tuple[Dot, ...] = field(default=())


@dataclass(frozen=True)
class Histogram:
    """Areas of a distribution of p_fake: reals above the middle line, fakes below."""

    reals: str
    fakes: str


@dataclass(frozen=True)
class Bar:
    """A figure and its interval on a strip from 0 to 100."""

    start: float
    width: float
    mark: float


def roc_line(series: int, curve: Curve) -> ChartLine:
    """Draw an ROC curve."""
    return ChartLine(series, ROC.line(curve.x, curve.y))


def risk_line(series: int, curve: Curve) -> ChartLine:
    """Draw a risk-coverage curve; errors of more than the axis has are on its upper end."""
    return ChartLine(series, RISK.line(curve.x, np.minimum(curve.y, RISK.highest)))


def reliability_line(series: int, diagram: Reliability) -> ChartLine:
    """Draw a reliability diagram through the bins that hold images."""
    held = np.flatnonzero(diagram.count)
    x, y = diagram.mean_p_fake[held], diagram.fraction_fake[held]
    share = diagram.count[held] / max(1, diagram.count.sum())
    dots = tuple(
        Dot(RELIABILITY.x(a), RELIABILITY.y(b), round(1.6 + 6 * s**0.5, 1), RELIABILITY.y(low), RELIABILITY.y(high))
        for a, b, s, low, high in np.stack([x, y, share, diagram.low[held], diagram.high[held]], axis=1).tolist()
    )
    return ChartLine(series, RELIABILITY.line(x, y) if len(held) else "", dots)


def histogram(reals: NDArray[np.int64], fakes: NDArray[np.int64]) -> Histogram:
    """Draw a distribution; heights are square roots of a bin's share of its class, so that few images are seen too."""
    middle = (HISTOGRAM.y(0) + HISTOGRAM.y(1)) / 2
    half = (HISTOGRAM.y(0) - HISTOGRAM.y(1)) / 2
    heights = [np.sqrt(count / max(1, count.sum())) for count in (reals, fakes)]
    highest = max(1e-9, *(float(height.max()) for height in heights))
    return Histogram(*(_steps(middle + way * half * h / highest, middle) for way, h in zip((-1, 1), heights, strict=True)))


def _steps(ends: NDArray[np.floating], base: float) -> str:
    """Return the path of an area of steps between `base` and `ends`; empty where all are at the base."""
    if (ends == base).all():
        return ""
    edges = [HISTOGRAM.x(i / len(ends)) for i in range(len(ends) + 1)]
    path = f"M{edges[0]:g} {base:g}"
    before = round(base, 1)
    for i, end in enumerate(ends):
        now = round(float(end), 1)
        path += f"V{now:g}" if now != before else ""
        next_now = round(float(ends[i + 1]), 1) if i + 1 < len(ends) else None
        path += f"H{edges[i + 1]:g}" if now != next_now else ""
        before = now
    return f"{path}V{base:g}Z"


def bar(estimate: Estimate, axis: tuple[float, float]) -> Bar | None:
    """Draw a figure and its interval on a strip whose ends are the fractions `axis`; None where it is undefined."""
    if estimate.value is None:
        return None
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high

    def place(value: float) -> float:
        return round(100 * (value - axis[0]) / (axis[1] - axis[0]), 1)

    return Bar(place(low), max(0.0, round(place(high) - place(low), 1)), place(estimate.value))


def axis_of(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return ends of a strip that hold all figures: from one half, or from the ten percent below the lowest, to 1."""
    lowest = min((e.value if e.low is None else e.low for e in estimates if e.value is not None), default=0.5)
    return min(0.5, np.floor((lowest or 0.0) * 10) / 10), 1.0
