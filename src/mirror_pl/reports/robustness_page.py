"""The page and the picture of a suite: balanced accuracy by perturbation and level, detectors beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mirror_pl.reports import charts
from mirror_pl.reports.charts import Chart, Levels, Series
from mirror_pl.reports.detector_names import short_names
from mirror_pl.reports.html_page import page_templates, policy
from mirror_pl.reports.robustness import SuiteResult
from mirror_pl.scores.robustness import ConditionScores

_STYLES = ["report.css", "robustness.css"]


def families(section: Sequence[SuiteResult]) -> list[Levels]:
    """Return what is drawn of a suite: per family, each detector from the images as they are to the strongest level."""
    short = short_names([result.detector for result in section])
    by_name = {
        Series(number, short[result.detector]): {one.name: one.figures for one in result.scores.conditions}
        for number, result in enumerate(section)
    }
    clean, *others = section[0].scores.conditions
    found = []
    for family, members in groupby(others, key=lambda one: one.family):
        names = [clean.name, *(one.name for one in members)]
        figures = {series: [named[name]["bal_acc"] for name in names] for series, named in by_name.items()}
        classes = {
            key: [named[name][key].value for name in names]
            for key in ("real_acc", "fake_acc")
            for named in by_name.values()
            if len(section) == 1
        }
        found.append(Levels(family.replace("_", " "), _short(names), figures, classes))
    return found


def _short(names: Sequence[str]) -> list[str]:
    """Leave out of the names of levels what all of them begin with; chains are numbered."""
    levels = names[1:]
    starts = {name.rpartition("_")[0] for name in levels}
    if any("+" in name for name in levels) or len(starts) > 1:
        return [names[0], *(str(number) for number in range(1, len(names)))]
    return [names[0], *(name.rpartition("_")[2] for name in levels)]


def robustness_page(sections: Sequence[Sequence[SuiteResult]]) -> tuple[str, list[Chart]]:
    """Return the page of some suites, each with detectors that stand side by side, and a picture of each.

    The page refers to files of the pictures beside it, by their names.
    """
    pictures = [
        charts.levels(f"{section[0].title}: {section[0].benchmark}", families(section)).named(
            *(["robustness"] if len(sections) == 1 else ["robustness", number, section[0].suite]), taken=set()
        )
        for number, section in enumerate(sections)
    ]
    page = (
        page_templates()
        .get_template("robustness.jinja")
        .render(
            policy=policy(_STYLES),
            styles=_STYLES,
            short=short_names(list(dict.fromkeys(result.detector for section in sections for result in section))),
            sections=[_section(section, picture) for section, picture in zip(sections, pictures, strict=True)],
            colours=len(charts.COLOURS),
        )
    )
    return page, pictures


def _section(section: Sequence[SuiteResult], picture: Chart) -> dict[str, Any]:
    by_name = [{one.name: one for one in result.scores.conditions} for result in section]
    rows = [(one.family, one.name, [named[one.name] for named in by_name]) for one in section[0].scores.conditions]
    taken: set[str] = set()
    return {
        "results": section,
        "first": section[0],
        "legend": [(number, result.detector) for number, result in enumerate(section)],
        "picture": picture,
        "panels": [charts.levels(one.title, [one]).named(picture.name, one.title, taken=taken) for one in families(section)],
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
