"""The leaderboard as text: on the screen, and as CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.reports.console import print_plain
from mirror_pl.reports.leaderboard import (
    EVERYTHING,
    GROUPS,
    GroupMean,
    Leaderboard,
    Result,
    Row,
    by_number,
)
from mirror_pl.reports.number_format import NAMES, bracket, figure, level_name, p_value, percent, signed
from mirror_pl.reports.report_notes import PARTIAL
from mirror_pl.scores.bootstrap import RESAMPLED, Estimate
from mirror_pl.scores.extended import EXTENDED
from mirror_pl.texts import csv_text, printable


def print_leaderboard(board: Leaderboard, console: Console) -> None:
    """Print the headline table, the published differences, the pairs of detectors, and all notes."""
    title = f"Balanced accuracy in %, {level_name(board.level)} intervals"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines = headline(board)
    shown = [line for line in lines if line.cells]
    if len(board.labels) > len(shown):  # a row per detector: more columns than rows would be narrow
        table.add_column("Detector", overflow="fold")
        for line in shown:
            table.add_column(Text(line.title), justify="right", overflow="fold")
        for label, cells in zip(board.labels, zip(*(line.cells for line in shown), strict=True), strict=True):
            table.add_row(Text(printable(label)), *(_text_of(cell, " ") for cell in cells))
    else:
        table.add_column("Benchmark", overflow="fold")
        for label in board.labels:
            table.add_column(Text(printable(label)), justify="right", overflow="fold")
        gap = " " if len(board.labels) < 3 else "\n"  # of more, lines would get too long
        for line in lines:
            if line.begins:
                table.add_section()
            name = Text(f"  {line.title}") if line.cells else Text(line.title, style="italic")
            table.add_row(name, *(_text_of(cell, gap) for cell in line.cells), style="bold" if line.kind == "mean" else None)
    for run in board.incomplete:
        table.add_row(Text(f"  {run.title}"), Text("incomplete"))
    console.print(table)
    titles = {benchmark.name: benchmark.title for benchmark in board.benchmarks}
    for result in board.results.values():
        for delta, sources in by_number(result.published):
            here = f"{titles[result.benchmark]}, {result.detector}: {percent(delta.measured)}"
            published = f"published {percent(delta.published)} ({', '.join(sources)}), {signed(delta.difference)}"
            print_plain(f"  {here}, {published}", console)
    if board.threshold_from:
        for label, fitted in board.thresholds.items():
            print_plain(f"  {label}: threshold {fitted.logit:.4g} on the logit, fitted on {board.threshold_from}", console)
    for where, label, before, after in calibrated_rows(board):
        print_plain(f"  {where}, {label}: before calibration {_listed(before)}; after {_listed(after)}", console)
    for pair in board.comparisons:
        figures = pair.figures
        where = titles.get(pair.benchmark, "All benchmarks")
        print_plain(
            f"  {where}: {pair.first} minus {pair.second} {signed(figures.difference)}, p {p_value(figures.p_value)} on "
            f"{figures.images:,} images",
            console,
        )
    for note in board.notes:
        print_plain(f"  {note}", console)


CALIBRATED: Final = ("ece", "ece_mass", "brier", "nll")
"""What is said before and after a calibration, of all distinct images."""


def calibrated_rows(board: Leaderboard) -> list[tuple[str, str, dict[str, float | None], dict[str, float | None]]]:
    """Return title, detector, and `CALIBRATED` before and after, of each result that is calibrated."""
    titles = {benchmark.name: benchmark.title for benchmark in board.benchmarks}
    return [
        (
            titles[result.benchmark],
            result.detector,
            {name: result.before[name] for name in CALIBRATED},
            {name: result.pooled.metrics[name].value for name in CALIBRATED},
        )
        for result in board.results.values()
        if result.before is not None
    ]


def _listed(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{NAMES[name]} {figure(value, name)}" for name, value in values.items())


@dataclass(frozen=True)
class Cell:
    """A figure of the headline table, written, with its mark, its interval, and that at the fitted threshold."""

    value: str
    mark: str
    interval: str
    is_best: bool = False
    at_threshold: str = ""


@dataclass(frozen=True)
class Line:
    """A row of the headline table: "benchmark", "mean", "pooled", or the title of a "group", which has no cells.

    Cells are one per detector, None where it was not run. A line that `begins` has a rule above it.
    """

    kind: str
    title: str
    cells: tuple[Cell | None, ...] = ()
    begins: bool = False


def headline(board: Leaderboard) -> list[Line]:
    """Return the rows of the headline table, as console, Markdown and LaTeX show it."""

    def cell(estimate: Estimate, partial: bool) -> Cell:
        return Cell(percent(estimate.value), PARTIAL if partial else "", bracket(estimate))

    def cell_of(result: Result | None) -> Cell | None:
        if result is None:
            return None
        at_threshold = "" if result.at_threshold is None else percent(result.at_threshold)
        is_best = board.best(result.benchmark) == result.detector
        return replace(cell(result.headline, result.is_partial), is_best=is_best, at_threshold=at_threshold)

    lines = []
    for group, benchmarks in [*board.groups().items(), (EVERYTHING, [])]:
        lines += [Line("group", GROUPS.get(group, group), begins=True)] if benchmarks else []
        for benchmark in benchmarks:
            results = (board.results.get((benchmark.name, label)) for label in board.labels)
            lines.append(Line("benchmark", benchmark.title, tuple(map(cell_of, results))))
        if (over := board.means().get(group)) is not None:
            means = [board.group_mean(label, over) for label in board.labels]
            title = f"Mean over {'these' if benchmarks else 'all'} benchmarks"
            lines.append(Line("mean", title, tuple(cell(m.mean, m.is_partial) for m in means), begins=not benchmarks))
            lines.append(Line("pooled", "All images together", tuple(cell(m.pooled, m.is_partial) for m in means)))
    return lines


def _text_of(cell: Cell | None, gap: str) -> Text:
    if cell is None:
        return Text("")
    text = Text.assemble((f"{cell.value}{cell.mark}", "bold" if cell.is_best else ""), gap, cell.interval)
    return text.append(f"\nat threshold {cell.at_threshold}") if cell.at_threshold else text


SCHEMA_VERSION: Final = 1
"""Of ``report.json``."""

MEAN: Final = "MEAN"
"""Row of a mean over subsets or benchmarks, as in the published report."""


def table_csv(board: Leaderboard) -> str:
    """Return the headline: a row a benchmark, group mean or incomplete run; for each detector its mean balanced accuracy.

    Five columns a detector: the mean, the ends of its interval, over all images together (pooled), and how many of how many
    subsets, or benchmarks, entered the mean; a sixth at the fitted threshold, where there is one.
    """
    columns = ["", " low", " high", " pooled", " entered", *([" at threshold"] if board.threshold_from else [])]
    rows = [["row", "group", "benchmark", *(f"{label}{column}" for label in board.labels for column in columns)]]
    means = board.means()
    for group, benchmarks in board.groups().items():
        for benchmark in benchmarks:
            results = [board.results.get((benchmark.name, label)) for label in board.labels]
            cells = [cell for result in results for cell in _cells(result, board)]
            rows.append(["benchmark", group, benchmark.name, *cells])
        if group in means:
            rows.append(_mean_row(board, group))
    if EVERYTHING in means:
        rows.append(_mean_row(board, EVERYTHING))
    nothing = [""] * (len(columns) * len(board.labels))
    rows += [["incomplete", "", run.benchmark, *nothing] for run in board.incomplete]
    return csv_text(rows)


def metrics_csv(board: Leaderboard) -> str:
    """Return all metrics, with their intervals: a row per detector and subset, then the benchmark's MEAN and POOLED."""
    header = ["detector", "benchmark", "subset", "reals", "fakes", "unscored"]
    for name in EXTENDED:
        header += [name, f"{name}_low", f"{name}_high"] if name in RESAMPLED else [name]
    rows: list[list[Any]] = [[*header, "bal_acc_at_threshold"]]
    for result in board.results.values():
        named = [result.detector, result.benchmark]
        rows += [[*named, *_metric_cells(row)] for row in result.rows]
        mean = [value for name in EXTENDED for value in _ends(result.mean[name], name)]
        rows.append([*named, MEAN, "", "", "", *mean, _text(result.at_threshold)])
        rows.append([*named, *_metric_cells(result.pooled)])
    return csv_text(rows)


def comparisons_csv(board: Leaderboard) -> str:
    """Return the pairs of detectors on the same images; ``difference`` is first minus second, of balanced accuracy."""
    names = ("images", "reals", "fakes", "only_first_right", "only_second_right", "p_value", "difference", "low", "high")
    rows: list[list[Any]] = [["benchmark", "first", "second", *names, "unmatched"]]
    for pair in board.comparisons:
        figures = [_text(getattr(pair.figures, name)) for name in (*names, "unmatched")]
        rows.append([pair.benchmark, pair.first, pair.second, *figures])
    return csv_text(rows)


def as_json(board: Leaderboard) -> dict[str, Any]:
    """Return everything as plain values, but for curves and pictures."""
    return {
        "schema_version": SCHEMA_VERSION,
        "made": board.made,
        "unit": "fraction",
        "level": board.level,
        "replicates": board.replicates,
        "seed": board.seed,
        "detectors": [
            {**asdict(d.key), "label": d.label, "checkpoint_path": d.checkpoint, "miniature": d.miniature}
            for d in board.detectors
        ],
        "benchmarks": [asdict(benchmark) for benchmark in board.benchmarks],
        "results": [_result_json(result) for result in board.results.values()],
        "means": [
            {
                "group": group,
                "detector": label,
                "benchmarks": [b.name for b in found],
                **asdict(board.group_mean(label, found)),
            }
            for group, found in board.means().items()
            for label in board.labels
        ],
        "threshold_from": board.threshold_from,
        "thresholds": {label: asdict(fitted) for label, fitted in board.thresholds.items()},
        "comparisons": [
            {"benchmark": pair.benchmark, "first": pair.first, "second": pair.second, **asdict(pair.figures)}
            for pair in board.comparisons
        ],
        "incomplete": [asdict(run) for run in board.incomplete],
        "notes": list(board.notes),
    }


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "benchmark": result.benchmark,
        "detector": result.detector,
        "folder": result.folder,
        "finished": result.finished,
        "subsets": [asdict(row) for row in result.rows],
        "mean": {name: asdict(estimate) for name, estimate in result.mean.items()},
        "mean_rows": dict(result.mean_rows),
        "pooled": asdict(result.pooled),
        "missing_subsets": list(result.missing),
        "undefined_subsets": list(result.undefined),
        "partial": result.is_partial,
        "published": [asdict(delta) for delta in result.published],
        "at_threshold": result.at_threshold,
        **({} if result.before is None else {"before_calibration": dict(result.before)}),
    }


def _cells(result: Result | None, board: Leaderboard) -> list[str]:
    if result is None:
        return [""] * (6 if board.threshold_from else 5)
    entered = f"{result.mean_rows['bal_acc']}/{result.subsets}"
    cells = [*_triple(result.headline), _text(result.pooled.metrics["bal_acc"].value), entered]
    return [*cells, _text(result.at_threshold)] if board.threshold_from else cells


def _mean_row(board: Leaderboard, group: str) -> list[str]:
    cells: list[str] = []
    for label in board.labels:
        mean: GroupMean = board.group_mean(label, board.means()[group])
        cells += [*_triple(mean.mean), _text(mean.pooled.value), f"{mean.entered}/{mean.of}"]
        cells += [_text(mean.at_threshold)] if board.threshold_from else []
    return ["mean", group, MEAN, *cells]


def _metric_cells(row: Row) -> list[str]:
    values = [value for name in EXTENDED for value in _ends(row.metrics[name], name)]
    return [row.subset, str(row.reals), str(row.fakes), str(row.unscored), *values, _text(row.at_threshold)]


def _ends(estimate: Estimate, name: str) -> list[str]:
    return _triple(estimate) if name in RESAMPLED else [_text(estimate.value)]


def _triple(estimate: Estimate) -> list[str]:
    return [_text(estimate.value), _text(estimate.low), _text(estimate.high)]


def _text(value: float | None) -> str:
    return "" if value is None else str(value)
