"""What pages are made with: the templates in ``page/``, which escape every name, and the policy that nothing else runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mirror_pl.labels import LABEL_NAMES
from mirror_pl.reports import charts
from mirror_pl.reports.leaderboard import EVERYTHING, GROUPS, Benchmark, Leaderboard, Result, by_number
from mirror_pl.reports.leaderboard_text import CALIBRATED
from mirror_pl.reports.number_format import NAMES, bracket, figure, level_name, p_value, percent, signed
from mirror_pl.reports.report_notes import PARTIAL, TOO_FEW, beyond_claim
from mirror_pl.reports.run_figures import RunFigures, WorstImage
from mirror_pl.scores.extended import EXTENDED

_PAGE: Final = Path(__file__).with_name("page")


def page_templates() -> Environment:
    """Return the templates; what one is not given is an error, and what it is given is escaped."""
    return Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def policy_hash(name: str) -> str:
    """Return what a content security policy calls an element that holds a file of ``page/``; no other of its kind works."""
    content = (_PAGE / name).read_text(encoding="utf-8").removesuffix("\n")  # as templates include it
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@dataclass(frozen=True)
class Picture:
    """What the page shows of an image: a JPEG, or a few words on why there is none."""

    jpeg: bytes | None
    reason: str = ""


def html_page(
    board: Leaderboard,
    figures: Mapping[tuple[str, str], RunFigures],
    pictures: Mapping[tuple[str, WorstImage], Picture],
    *,
    robustness: bool = False,
) -> str:
    """Return the page.

    Args:
        board: The leaderboard.
        figures: What is drawn, by benchmark and detector, as in `board.results`.
        pictures: Of worst images, by the folder of the run and the image.
        robustness: Whether there is a page on that beside it.
    """
    environment = page_templates()
    environment.filters |= {"percent": percent, "figure": figure, "signed": signed, "bracket": bracket, "p_value": p_value}
    estimates = [result.headline for result in board.results.values()]
    axis = charts.axis_of(estimates)
    sources = list(dict.fromkeys(delta.source for result in board.results.values() for delta in result.published))
    return environment.get_template("report.jinja").render(
        policy=f"default-src 'none'; img-src data:; style-src {policy_hash('report.css')}; "
        f"script-src {policy_hash('report.js')}; base-uri 'none'; form-action 'none'",
        board=board,
        robustness=robustness,
        made=f"{datetime.fromisoformat(board.made):%d %B %Y, %H:%M}",
        level=level_name(board.level),
        axis=axis,
        images=sum(result.pooled.reals + result.pooled.fakes for result in board.results.values()),
        groups=[
            {"title": GROUPS.get(group, group), "benchmarks": found, "means": _means(board, group)}
            for group, found in board.groups().items()
        ],
        overall=_means(board, EVERYTHING),
        best={benchmark.name: board.best(benchmark.name) for benchmark in board.benchmarks},
        bars={key: charts.bar(result.headline, axis) for key, result in board.results.items()},
        published={key: by_number(result.published) for key, result in board.results.items()},
        sources={source: chr(ord("a") + place) for place, source in enumerate(sources)},
        comparisons=[(pair, _title(board, pair.benchmark)) for pair in board.comparisons],
        sections=[_section(board, benchmark, figures, pictures) for benchmark in board.benchmarks],
        calibrated=[(name, NAMES[name]) for name in CALIBRATED],
        metrics=[(name, NAMES[name]) for name in EXTENDED],
        frames={"roc": charts.ROC, "reliability": charts.RELIABILITY, "risk": charts.RISK, "histogram": charts.HISTOGRAM},
        colours=charts.SERIES,
        partial=PARTIAL,
        too_few=TOO_FEW,
        beyond_claim=beyond_claim,
        label_names=LABEL_NAMES,
    )


def _means(board: Leaderboard, group: str) -> list[Any]:
    benchmarks = board.means().get(group)
    return [] if benchmarks is None else [board.group_mean(label, benchmarks) for label in board.labels]


def _title(board: Leaderboard, name: str) -> str:
    return next((b.title for b in board.benchmarks if b.name == name), "All benchmarks")


def _section(
    board: Leaderboard,
    benchmark: Benchmark,
    figures: Mapping[tuple[str, str], RunFigures],
    pictures: Mapping[tuple[str, WorstImage], Picture],
) -> dict[str, Any]:
    """Gather what the page says of one benchmark."""
    runs = [
        (series, result, figures[benchmark.name, label])
        for series, label in enumerate(board.labels)
        if (result := board.results.get((benchmark.name, label))) is not None
    ]
    subsets = list(dict.fromkeys(row.subset for _, result, _ in runs for row in result.rows))
    rows = {(series, row.subset): row for series, result, _ in runs for row in result.rows}
    drawn = {(series, part.subset): part for series, _, found in runs for part in found.subsets}
    return {
        "benchmark": benchmark,
        "runs": [(series, result) for series, result, _ in runs],
        "table": [
            (subset, series, rows[series, subset]) for subset in subsets for series, _, _ in runs if (series, subset) in rows
        ],
        "pooled": [(series, result.pooled) for series, result, _ in runs],
        "roc": [
            (subset, [charts.roc_line(series, part.roc) for series, part in _of(drawn, subset) if part.roc is not None])
            for subset in subsets
        ],
        "aucs": {
            subset: [(series, rows[series, subset].metrics["auc"]) for series, _ in _of(drawn, subset)] for subset in subsets
        },
        "reliability": [charts.reliability_line(series, found.reliability) for series, _, found in runs],
        "before": [charts.reliability_line(series, found.before) for series, _, found in runs if found.before is not None],
        "calibrated": [(series, result) for series, result, _ in runs if result.before is not None],
        "risk": [charts.risk_line(series, found.risk) for series, _, found in runs if found.risk is not None],
        "aurcs": [(series, found.aurc) for series, _, found in runs if found.aurc is not None],
        "histograms": _histograms(runs),
        "worst": [
            (series, found.errors, [(image, _picture(pictures, result, image)) for image in found.worst])
            for series, result, found in runs
        ],
    }


def _histograms(runs: Sequence[tuple[int, Result, RunFigures]]) -> list[list[tuple[int, str, charts.Histogram]]]:
    """Draw all distributions, a row per detector; of a benchmark without subsets, all detectors in one row."""
    rows = [
        [(series, part.subset, charts.histogram(part.reals, part.fakes)) for part in found.subsets]
        for series, _, found in runs
    ]
    return [[drawn for row in rows for drawn in row]] if all(len(row) == 1 for row in rows) else rows


def _of(drawn: Mapping[tuple[int, str], Any], subset: str) -> Sequence[tuple[int, Any]]:
    return [(series, part) for (series, name), part in drawn.items() if name == subset]


def _picture(pictures: Mapping[tuple[str, WorstImage], Picture], result: Result, image: WorstImage) -> dict[str, str]:
    picture = pictures.get((result.folder, image), Picture(None, "not shown"))
    if picture.jpeg is None:
        return {"data": "", "reason": picture.reason}
    return {"data": f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}", "reason": ""}
