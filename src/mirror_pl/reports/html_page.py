"""What pages are made with: the templates in ``page/``, which escape every name, and the policy that nothing else runs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mirror_pl.labels import LABEL_NAMES
from mirror_pl.reports import charts
from mirror_pl.reports.charts import Chart, Series
from mirror_pl.reports.chosen_images import ChosenImage
from mirror_pl.reports.detector_names import short_names
from mirror_pl.reports.leaderboard import EVERYTHING, GROUPS, Benchmark, Leaderboard, Result, by_number
from mirror_pl.reports.leaderboard_text import CALIBRATED
from mirror_pl.reports.number_format import NAMES, bracket, figure, level_name, p_value, percent, signed
from mirror_pl.reports.report_notes import PARTIAL, TOO_FEW, beyond_claim
from mirror_pl.reports.run_figures import RunFigures, SubsetFigures
from mirror_pl.scores.extended import EXTENDED
from mirror_pl.scores.reliability import Reliability

_PAGE: Final = Path(__file__).with_name("page")


def page_templates() -> Environment:
    """Return the templates; what one is not given is an error, and what it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"percent": percent, "figure": figure, "signed": signed, "bracket": bracket, "p_value": p_value}
    environment.filters |= {**filters, "breaking": breaking}
    return environment


def breaking(text: str) -> Markup:
    """Return a text that may go on in a new line behind each mark in it, and nowhere else within a word."""
    return Markup("<wbr>").join(re.findall(r"[^/_@-]*[/_@-]?", text)[:-1])


def policy_hash(name: str) -> str:
    """Return what a content security policy calls an element that holds a file of ``page/``; no other of its kind works."""
    content = (_PAGE / name).read_text(encoding="utf-8").removesuffix("\n")  # as templates include it
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def policy(styles: Sequence[str], scripts: Sequence[str] = (), images: str = "data:") -> str:
    """Return a content security policy by which a page holds these files of ``page/``, and runs and loads nothing else."""
    allowed = f"script-src {' '.join(map(policy_hash, scripts))}; " if scripts else ""
    return (
        f"default-src 'none'; img-src {images}; style-src {' '.join(map(policy_hash, styles))}; {allowed}"
        "base-uri 'none'; form-action 'none'"
    )


@dataclass(frozen=True)
class Picture:
    """What the page shows of an image: a JPEG, or a few words on why there is none."""

    jpeg: bytes | None
    reason: str = ""


def html_page(
    board: Leaderboard,
    figures: Mapping[tuple[str, str], RunFigures],
    pictures: Mapping[tuple[str, ChosenImage], Picture],
    *,
    robustness: bool = False,
) -> tuple[str, list[Chart]]:
    """Return the page, and the charts in it, whose files it refers to in the folder ``figures`` beside it.

    Args:
        board: The leaderboard.
        figures: What is drawn, by benchmark and detector, as in `board.results`.
        pictures: Of worst images, by the folder of the run and the image.
        robustness: Whether there is a page on that beside it.
    """
    sources = list(dict.fromkeys(delta.source for result in board.results.values() for delta in result.published))
    short = short_names(board.labels)
    drawing = _Drawing(board, short, figures, pictures)
    page = (
        page_templates()
        .get_template("report.jinja")
        .render(
            policy=policy(["report.css"], ["report.js"]),
            styles=["report.css"],
            board=board,
            short=short,
            robustness=robustness,
            made=f"{datetime.fromisoformat(board.made):%d %B %Y, %H:%M}",
            level=level_name(board.level),
            images=sum(result.pooled.reals + result.pooled.fakes for result in board.results.values()),
            groups=[
                {"title": GROUPS.get(group, group), "benchmarks": found, "means": _means(board, group)}
                for group, found in board.groups().items()
            ],
            overall=_means(board, EVERYTHING),
            best={benchmark.name: board.best(benchmark.name) for benchmark in board.benchmarks},
            published={key: by_number(result.published) for key, result in board.results.items()},
            sources={source: chr(ord("a") + place) for place, source in enumerate(sources)},
            comparisons=[(pair, _title(board, pair.benchmark)) for pair in board.comparisons],
            intervals=drawing.intervals(),
            sections=[drawing.section(benchmark) for benchmark in board.benchmarks],
            calibrated=[(name, NAMES[name]) for name in CALIBRATED],
            metrics=[(name, NAMES[name]) for name in EXTENDED],
            colours=len(charts.COLOURS),
            few=charts.FEW,
            partial=PARTIAL,
            too_few=TOO_FEW,
            beyond_claim=beyond_claim,
            label_names=LABEL_NAMES,
        )
    )
    return page, drawing.charts


def _means(board: Leaderboard, group: str) -> list[Any]:
    benchmarks = board.means().get(group)
    return [] if benchmarks is None else [board.group_mean(label, benchmarks) for label in board.labels]


def _title(board: Leaderboard, name: str) -> str:
    return next((b.title for b in board.benchmarks if b.name == name), "All benchmarks")


class _Drawing:
    """Gathers what the page says of each benchmark, and draws its charts, which are kept in `charts`."""

    def __init__(
        self,
        board: Leaderboard,
        short: Mapping[str, str],
        figures: Mapping[tuple[str, str], RunFigures],
        pictures: Mapping[tuple[str, ChosenImage], Picture],
    ) -> None:
        self.board = board
        self.figures = figures
        self.pictures = pictures
        self.detectors = [Series(number, short[label]) for number, label in enumerate(board.labels)]
        self.charts: list[Chart] = []
        self._taken: set[str] = set()

    def _keep(self, chart: Chart, *words: str) -> Chart:
        self.charts.append(chart.named(*words, taken=self._taken))
        return self.charts[-1]

    def intervals(self) -> list[Chart]:
        """Draw the headline: a chart per benchmark of several detectors, one of all benchmarks of a single detector."""
        results = {key: result.headline for key, result in self.board.results.items()}
        benchmarks, labels = self.board.benchmarks, self.board.labels
        short = short_names([*labels, *(benchmark.title for benchmark in benchmarks)], 20)
        detectors = list(zip(self.detectors, labels, strict=True))
        if len(detectors) > 1:
            drawn = [
                (
                    b.title,
                    [(short[label], one, results[b.name, label]) for one, label in detectors if (b.name, label) in results],
                )
                for b in benchmarks
            ]
        else:
            drawn = [(labels[0], [(short[b.title], self.detectors[0], results[b.name, labels[0]]) for b in benchmarks])]
        return [
            self._keep(charts.intervals(title, rows), title, "balanced_accuracy") for title, rows in drawn if len(rows) > 1
        ]

    def section(self, benchmark: Benchmark) -> dict[str, Any]:
        """Return what the page says of one benchmark."""
        runs = [
            (one, result, self.figures[benchmark.name, label])
            for one, label in zip(self.detectors, self.board.labels, strict=True)
            if (result := self.board.results.get((benchmark.name, label))) is not None
        ]
        subsets = list(dict.fromkeys(row.subset for _, result, _ in runs for row in result.rows))
        rows = {
            name: [(one.number, row) for one, result, _ in runs for row in result.rows if row.subset == name]
            for name in subsets
        }
        risks = {one: found.risk for one, _, found in runs if found.risk is not None}
        title = benchmark.title
        return {
            "benchmark": benchmark,
            "runs": [(one.number, result) for one, result, _ in runs],
            "legend": [(one.number, result.detector) for one, result, _ in runs],
            "table": list(rows.items()),
            "pooled": [(one.number, result.pooled) for one, result, _ in runs],
            "roc": [
                (name, self._roc(title, name, runs), [row.metrics["auc"] for _, row in found])
                for name, found in rows.items()
            ],
            "reliability": [
                (one.number, self._reliability(title, one, diagram, words))
                for one, _, found in runs
                for diagram, words in ((found.before, " before calibration"), (found.reliability, ""))
                if diagram is not None
            ],
            "calibrated": [(one.number, result) for one, result, _ in runs if result.before is not None],
            "risk": self._keep(charts.risk(title, risks), title, "risk") if risks else None,
            "aurcs": [(one.number, found.aurc) for one, _, found in runs if found.aurc is not None],
            "histograms": [
                (
                    one.number,
                    [
                        self._keep(
                            charts.histogram(part.subset, one, part.reals, part.fakes),
                            title,
                            "p_fake",
                            one.name,
                            part.subset,
                        )
                        for part in found.subsets
                    ],
                )
                for one, _, found in runs
            ],
            "worst": [
                (one.number, found.errors, [(image, self._picture(result, image)) for image in found.worst])
                for one, result, found in runs
            ],
        }

    def _roc(self, title: str, subset: str, runs: Sequence[tuple[Series, Result, RunFigures]]) -> Chart | None:
        parts = [(one, part) for one, _, found in runs for part in found.subsets if part.subset == subset]
        curves = {one: part.roc for one, part in parts if part.roc is not None}
        return self._keep(charts.roc(subset, curves), title, "roc", subset) if curves else None

    def _reliability(self, title: str, one: Series, diagram: Reliability, words: str) -> Chart:
        label = f"Reliability diagram{words}, {title}, {one.name}"
        chart = charts.reliability(f"{one.name}{words}", one, diagram, label)
        return self._keep(chart, title, f"reliability{words}", one.name)

    def _histogram(self, title: str, one: Series, part: SubsetFigures) -> Chart:
        chart = charts.histogram(part.subset, one, part.reals, part.fakes)
        return self._keep(chart, title, "p_fake", one.name, part.subset)

    def _picture(self, result: Result, image: ChosenImage) -> dict[str, str]:
        picture = self.pictures.get((result.folder, image), Picture(None, "not shown"))
        if picture.jpeg is None:
            return {"data": "", "reason": picture.reason}
        return {"data": f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}", "reason": ""}
