"""The page and the picture of a suite: balanced accuracy by perturbation and level, detectors beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from mirror_pl.reports import charts
from mirror_pl.reports.html_page import page_templates, policy_hash
from mirror_pl.reports.number_format import bracket, percent, signed
from mirror_pl.reports.robustness import SuiteResult
from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.robustness import ConditionScores

PANEL: Final = charts.Frame(230, 170, left=30, right=12, top=26, bottom=34)
ACROSS: Final = 4
"""Panels in a row of the picture."""


@dataclass(frozen=True)
class Point:
    """A figure in a panel, and its interval; heights in the picture's units."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One family: a line per detector from the images as they are to the strongest level.

    Attributes:
        title: The family.
        left: Where the panel begins in the picture.
        top: Likewise.
        ticks: Place and name of each level.
        lines: By detector: its number, the path, and the points.
        classes: By detector: the paths of real and of fake accuracy; only where there is one detector, to be readable.
    """

    title: str
    left: int
    top: int
    ticks: list[tuple[float, str]]
    lines: list[tuple[int, str, list[Point]]]
    classes: list[tuple[str, str]]


def panels(section: Sequence[SuiteResult]) -> list[Panel]:
    """Lay out the panels of a suite."""
    found = []
    first = section[0].scores.conditions
    for number, (family, members) in enumerate(groupby(first[1:], key=lambda one: one.family)):
        names = [first[0].name, *(one.name for one in members)]
        places = [PANEL.x(i / (len(names) - 1)) for i in range(len(names))]
        lines, classes = [], []
        for series, result in enumerate(section):
            by_name = {one.name: one for one in result.scores.conditions}
            points = [
                _point(x, by_name[name].figures["bal_acc"])
                for x, name in zip(places, names, strict=True)
                if by_name[name].figures["bal_acc"].value is not None
            ]
            lines.append((series, _path([(point.x, point.y) for point in points]), points))
            if len(section) == 1:
                for key in ("real_acc", "fake_acc"):
                    values = [(x, by_name[name].figures[key].value) for x, name in zip(places, names, strict=True)]
                    classes.append((key, _path([(x, PANEL.y(value)) for x, value in values if value is not None])))
        row, column = divmod(number, ACROSS)
        ticks = list(zip(places, _short(names), strict=True))
        found.append(Panel(family, column * PANEL.width, row * PANEL.height, ticks, lines, classes))
    return found


def _point(x: float, estimate: Estimate) -> Point:
    value = estimate.value or 0.0
    ends = (value if end is None else end for end in (estimate.low, estimate.high))
    return Point(x, PANEL.y(value), *map(PANEL.y, ends))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""


def _short(names: Sequence[str]) -> list[str]:
    """Leave out of the names of levels what all of them begin with; chains are numbered."""
    levels = names[1:]
    starts = {name.rpartition("_")[0] for name in levels}
    if any("+" in name for name in levels) or len(starts) > 1:
        return [names[0], *(str(number) for number in range(1, len(names)))]
    return [names[0], *(name.rpartition("_")[2] for name in levels)]


def picture(section: Sequence[SuiteResult]) -> str:
    """Return the picture of a suite as an SVG file of its own."""
    return page_templates().get_template("robustness_picture.jinja").render(_picture(section), alone=True)


def _picture(section: Sequence[SuiteResult]) -> dict[str, Any]:
    drawn = panels(section)
    rows = -(-len(drawn) // ACROSS)
    return {
        "panels": drawn,
        "panel": PANEL,
        "width": PANEL.width * min(ACROSS, max(1, len(drawn))),
        "height": PANEL.height * rows,
        "detectors": [result.detector for result in section],
        "title": f"{section[0].title}: {section[0].benchmark}",
        "colours": charts.SERIES,
    }


def robustness_page(sections: Sequence[Sequence[SuiteResult]]) -> str:
    """Return the page of some suites, each with detectors that stand side by side."""
    environment = page_templates()
    environment.filters |= {"percent": percent, "signed": signed, "bracket": bracket}
    return environment.get_template("robustness.jinja").render(
        policy=f"default-src 'none'; style-src {policy_hash('report.css')} {policy_hash('robustness.css')}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        sections=[_section(section) for section in sections],
        colours=charts.SERIES,
    )


def _section(section: Sequence[SuiteResult]) -> dict[str, Any]:
    by_name = [{one.name: one for one in result.scores.conditions} for result in section]
    rows = [(one.family, one.name, [named[one.name] for named in by_name]) for one in section[0].scores.conditions]
    return {
        "results": section,
        "first": section[0],
        "picture": _picture(section),
        "families": [(family, list(members)) for family, members in groupby(rows, key=lambda row: row[0])],
        "worst": [
            {key: named.get(name) for key, name in result.scores.worst.items()}
            for result, named in zip(section, by_name, strict=True)
        ],
        "shade": shade,
    }


def shade(one: ConditionScores) -> int:
    """Return which of eleven shades a condition's balanced accuracy has: 0 at one half and below, 10 at 1."""
    value = one.figures["bal_acc"].value
    return 0 if value is None else max(0, min(10, round(20 * (value - 0.5))))
