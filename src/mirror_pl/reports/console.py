"""The report on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.reports.published_csv import HEADER, Delta
from mirror_pl.scores import COPIED_RELEASE, METRICS, BenchmarkScores, SubsetScores
from mirror_pl.scores.selective import Abstention
from mirror_pl.texts import printable


def print_report(index: BenchmarkIndex, scores: BenchmarkScores, compared: Sequence[Delta], console: Console) -> None:
    """Print the table of a benchmark, in percent, and below it what was left out, undefined, and published."""
    table = Table(title=f"{index.manifest.title} (in %)", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(HEADER[0], overflow="fold")
    for name in ("real", "fake"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in HEADER[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in scores.rows:
        table.add_row(*_cells(row))
    if len(scores.rows) > 1:
        table.add_section()
        table.add_row("MEAN", "", "", *(_percent(scores.mean[name]) for name in METRICS), style="bold")
        if scores.mean_is_partial:
            table.add_row("of rows", "", "", *(f"{scores.mean_rows[name]}/{len(scores.rows)}" for name in METRICS))
        table.add_row(*_cells(scores.pooled))
    console.print(table)
    if any(value is None for row in scores.rows for value in row.metrics.values()):
        print_plain("  -  undefined: the subset lacks a class with scored images, and is left out of that mean", console)
    for delta in compared:
        partial = "; subsets are missing or undefined here" if index.missing or scores.mean_is_partial else ""
        difference = f"difference {100 * delta.difference:+.2f}{partial}"
        print_plain(f"  published Bal_Acc {_percent(delta.published)} ({delta.source}), {difference}", console)
    unscored = sum(row.unscored for row in scores.rows)
    if unscored:
        fate = (
            f"were replaced by random others of their subset, as in {COPIED_RELEASE}"
            if scores.compat == "published"
            else "are in no figure"
        )
        print_plain(f"  {unscored} without a score: they {fate}; see bad_images.csv", console)
    print_left_out(index, console)


def print_abstention(abstention: Abstention, console: Console) -> None:
    """Print how often each class was decided, and how often wrongly."""
    for name, part in abstention.classes.items():
        shares = f"{_percent(part.wrong_of_all)} % of all, {_percent(part.wrong_of_decided)} % of decided"
        text = f"{name}: {part.decided:,} decided, {part.unsure:,} unsure; {part.wrong:,} wrong: {shares}"
        print_plain(f"  {text}", console)
    stated = f"at most {100 * abstention.rate:g} % wrong of all are stated for each class"
    print_plain(f"  abstain={abstention.rate:g}: {stated}", console)


def print_left_out(index: BenchmarkIndex, console: Console) -> None:
    """Print what of the benchmark is not on disk, and which files were passed over."""
    lines = []
    for group in dict.fromkeys(index.pairs.values()):
        served = [name for name, pair in index.pairs.items() if pair == group]
        lines.append(f"paired with {group.removeprefix('shared:')}: {', '.join(served)}")
    lines += [f"left out: {name} ({reason})" for name, reason in index.missing.items()]
    lines += [f"not listed: {folder} ({reason})" for folder, reason in index.unreadable.items()]
    for reason, count in index.passed_over.counts.items():
        examples = ", ".join(index.passed_over.examples[reason])
        lines.append(f"passed over: {count} {'file' if count == 1 else 'files'} with {reason}, such as {examples}")
    for line in lines:
        print_plain(f"  {line}", console)


def print_plain(text: str, console: Console) -> None:
    """Print a line that holds names from outside: unwrapped, without rich's markup, and nothing in it steers a terminal."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _cells(row: SubsetScores) -> list[str | Text]:
    return [Text(printable(row.subset)), str(row.reals), str(row.fakes), *(_percent(row.metrics[name]) for name in METRICS)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
