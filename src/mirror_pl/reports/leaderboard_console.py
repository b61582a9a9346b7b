"""The leaderboard on the screen."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.reports.console import print_plain
from mirror_pl.reports.leaderboard import EVERYTHING, GROUPS, Benchmark, Leaderboard, by_number
from mirror_pl.reports.number_format import bracket, level_name, p_value, percent, signed
from mirror_pl.reports.report_notes import PARTIAL
from mirror_pl.texts import printable


def print_leaderboard(board: Leaderboard, console: Console) -> None:
    """Print the headline table, the published differences, the pairs of detectors, and all notes."""
    title = f"Balanced accuracy in %, {level_name(board.level)} intervals"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Benchmark", overflow="fold")
    for label in board.labels:
        table.add_column(Text(printable(label)), justify="right", overflow="fold")
    for group, benchmarks in board.groups().items():
        table.add_row(Text(GROUPS.get(group, group), style="italic"))
        for benchmark in benchmarks:
            table.add_row(Text(f"  {benchmark.title}"), *(_cell(board, benchmark, label) for label in board.labels))
        _add_means(table, board, group)
        table.add_section()
    _add_means(table, board, EVERYTHING)
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


def _cell(board: Leaderboard, benchmark: Benchmark, label: str) -> Text:
    result = board.results.get((benchmark.name, label))
    if result is None:
        return Text("")
    style = "bold" if board.best(benchmark.name) == label else ""
    mark = PARTIAL if result.is_partial else ""
    text = Text.assemble((f"{percent(result.headline.value)}{mark}", style), _gap(board), bracket(result.headline))
    if board.threshold_from and result.at_threshold is not None:
        text.append(f"\nat threshold {percent(result.at_threshold)}")
    return text


def _add_means(table: Table, board: Leaderboard, group: str) -> None:
    benchmarks = board.means().get(group)
    if benchmarks is None:
        return
    means = [board.group_mean(label, benchmarks) for label in board.labels]
    marks = [PARTIAL if mean.is_partial else "" for mean in means]
    gap = _gap(board)
    cells = [f"{percent(m.mean.value)}{k}{gap}{bracket(m.mean)}".rstrip() for m, k in zip(means, marks, strict=True)]
    pooled = [f"{percent(m.pooled.value)}{k}{gap}{bracket(m.pooled)}".rstrip() for m, k in zip(means, marks, strict=True)]
    table.add_row("MEAN" if group == EVERYTHING else "  mean", *map(Text, cells), style="bold")
    table.add_row("POOLED" if group == EVERYTHING else "  pooled", *map(Text, pooled))


def _gap(board: Leaderboard) -> str:
    """Return what stands between a figure and its interval: of more than two detectors, lines would get too long."""
    return " " if len(board.labels) < 3 else "\n"
