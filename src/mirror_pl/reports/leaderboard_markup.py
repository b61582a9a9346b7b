"""The leaderboard for people who write: Markdown for a README or an issue, and LaTeX for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mirror_pl.reports.leaderboard import Benchmark, Leaderboard, by_number
from mirror_pl.reports.leaderboard_text import CALIBRATED, Cell, calibrated_rows, headline
from mirror_pl.reports.number_format import NAMES, figure, level_name, p_value, percent, signed


def markdown(board: Leaderboard) -> str:
    """Return the report as Markdown: the table, thresholds, published numbers, pairs of detectors, and notes."""
    lines = [f"# Balanced accuracy in %, with {level_name(board.level)} intervals", ""]
    body = []
    for line in headline(board):
        around = {"group": "*", "mean": "**"}.get(line.kind, "")
        cells = map(_md_cell, line.cells) if line.cells else [""] * len(board.labels)
        body.append([f"{around}{_md(line.title)}{around}", *cells])
    body += [[f"{_md(run.title)}: incomplete, {_md(run.folder)}", *[""] * len(board.labels)] for run in board.incomplete]
    lines += _md_table(["Benchmark", *map(_md, board.labels)], body)
    lines += [*_threshold_lines(board), *_published_lines(board), *_calibration_lines(board), *_pair_lines(board)]
    if board.notes:
        lines += ["", "## Notes", "", *(f"- {_md(note)}" for note in board.notes)]
    return "\n".join(lines) + "\n"


def _threshold_lines(board: Leaderboard) -> list[str]:
    if board.threshold_from is None:
        return []
    rows = [[_md(b.title), *(percent(_at(board, b, label)) for label in board.labels)] for b in board.benchmarks]
    fitted = [board.thresholds.get(label) for label in board.labels]
    rows.append(["threshold on the logit", *("-" if t is None else f"{t.logit:.4g}" for t in fitted)])
    heading = f"## At a threshold fitted on {_md(board.threshold_from)}"
    return ["", heading, "", *_md_table(["Benchmark", *map(_md, board.labels)], rows)]


def _published_lines(board: Leaderboard) -> list[str]:
    rows = []
    for result in board.results.values():
        for delta, sources in by_number(result.published):
            numbers = [percent(delta.measured), percent(delta.published), signed(delta.difference)]
            rows.append([_md(_title(board, result.benchmark)), _md(result.detector), *numbers, ", ".join(sources)])
    header = ["Benchmark", "Detector", "Here", "Published", "Difference", "Printed in"]
    return ["", "## Beside the published numbers", "", *_md_table(header, rows)] if rows else []


def _calibration_lines(board: Leaderboard) -> list[str]:
    rows = [
        [_md(where), _md(label), *(f"{figure(before[name], name)} → {figure(after[name], name)}" for name in CALIBRATED)]
        for where, label, before, after in calibrated_rows(board)
    ]
    header = ["Benchmark", "Detector", *(NAMES[name] for name in CALIBRATED)]
    return ["", "## Before and after calibration, all images together", "", *_md_table(header, rows)] if rows else []


def _pair_lines(board: Leaderboard) -> list[str]:
    rows = []
    for pair in board.comparisons:
        figures = pair.figures
        names = [_title(board, pair.benchmark), pair.first, pair.second]
        difference = f"{signed(figures.difference)} {_interval(figures.low, figures.high)}".rstrip()
        counts = [f"{count:,}" for count in (figures.images, figures.only_first_right, figures.only_second_right)]
        rows.append([*map(_md, names), difference, p_value(figures.p_value), *counts])
    header = ["Benchmark", "First", "Second", "First minus second", "p", "Images", "Only first right", "Only second right"]
    return ["", "## Pairs of detectors, on the same images", "", *_md_table(header, rows)] if rows else []


def latex(board: Leaderboard) -> str:
    r"""Return the table as LaTeX, to be \input; it needs the package booktabs. Notes are comments in it."""
    lines = [f"% Balanced accuracy in percent, with {level_name(board.level).replace('%', 'percent')} intervals."]
    lines += ["% Needs \\usepackage{booktabs}.", *(f"% {_one_line(note)}" for note in board.notes)]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(board.labels)}}}", "\\toprule"]
    lines += [" & ".join(["Benchmark", *map(_tex, board.labels)]) + r" \\"]
    width = len(board.labels) + 1
    for line in headline(board):
        lines += ["\\midrule"] if line.begins else []
        title = _tex(line.title) if line.cells else f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_tex(line.title)}}}}}"
        lines.append(" & ".join([title, *map(_tex_cell, line.cells)]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _md_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value = f"**{cell.value}**" if cell.is_best else cell.value
    return f"{value}{cell.mark} {cell.interval}".rstrip()


def _tex_cell(cell: Cell | None) -> str:
    if cell is None or cell.value == "-":
        return "--"
    value = f"\\textbf{{{cell.value}}}" if cell.is_best else cell.value
    interval = f" {{\\scriptsize {cell.interval}}}" if cell.interval else ""
    return f"{value}{_DAGGER if cell.mark else ''}{interval}"


def _at(board: Leaderboard, benchmark: Benchmark, label: str) -> float | None:
    result = board.results.get((benchmark.name, label))
    return None if result is None else result.at_threshold


def _title(board: Leaderboard, name: str) -> str:
    return next((b.title for b in board.benchmarks if b.name == name), "all benchmarks")


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(row) + " |" for row in lines]


def _md(text: str) -> str:
    """Write a name from outside so that Markdown, and the HTML inside it, take it for nothing but text."""
    return re.sub(r"([\\`*_{}\[\]#|~&$])", r"\\\1", _one_line(text)).replace("<", "&lt;").replace(">", "&gt;")


_DAGGER = "$^\\dagger$"
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def _tex(text: str) -> str:
    """Write a name from outside so that LaTeX takes it for nothing but text."""
    return "".join(_TEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
