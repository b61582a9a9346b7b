"""What a suite came to, for one detector or several: as JSON, CSV, and on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.errors import DataError
from mirror_pl.files import read_json, write_text
from mirror_pl.labels import LABEL_NAMES
from mirror_pl.reports.console import print_plain
from mirror_pl.reports.number_format import bracket, percent, signed
from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.robustness import FIGURES, ConditionScores, Robustness, Shift
from mirror_pl.texts import csv_text, printable

FILE = "robustness.json"
"""In the folder of a run."""


@dataclass(frozen=True)
class SuiteResult:
    """One detector on one benchmark under one suite.

    Attributes:
        suite: Its name.
        title: Its name in print.
        source: Where its levels come from.
        benchmark: In print.
        detector: What it is called.
        threshold_from: The run that the other threshold was fitted on; None without one.
        level: Of the intervals.
        replicates: Of the bootstrap.
        scores: The figures.
    """

    suite: str
    title: str
    source: str
    benchmark: str
    detector: str
    threshold_from: str | None
    level: float
    replicates: int
    scores: Robustness


def as_json(result: SuiteResult) -> str:
    """Return all of it."""
    return json.dumps({"schema_version": 1, **asdict(result)}, indent=2, allow_nan=False) + "\n"


def read_result(folder: Path, detector: str, benchmark: str) -> SuiteResult | None:
    """Read what a run has come to; None where it is of no suite.

    Args:
        folder: Of the run.
        detector: What it is called beside others.
        benchmark: Likewise.

    Raises:
        DataError: If the file is damaged, or of a newer version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = dict(read_json(path))
        if content.pop("schema_version") != 1:
            raise ValueError("schema_version is not 1")
        result = SuiteResult(**{**content, "scores": _scores(content["scores"])})
        return replace(result, detector=detector, benchmark=benchmark)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Evaluate again, or leave this run out") from error


def _scores(values: Mapping[str, Any]) -> Robustness:
    conditions = tuple(
        ConditionScores(
            **{
                **one,
                "figures": _estimates(one["figures"]),
                "gap": _estimates(one["gap"]),
                "shift": {name: Shift(**shift) for name, shift in one["shift"].items()},
            }
        )
        for one in values["conditions"]
    )
    means = {name: _estimates(values[name]) for name in ("mean", "mean_gap")}
    return Robustness(**{**values, "conditions": conditions, **means})


def _estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(**value) for name, value in values.items()}


def results_csv(results: Sequence[SuiteResult]) -> str:
    """Return a row per detector, condition and subset, and one for the mean over subsets; fractions, logits for shifts."""
    ends = ("low", "high")
    shifts = [(name, part) for name in LABEL_NAMES for part in ("mean", "low", "median", "high", "turned")]
    header = ["suite", "benchmark", "detector", "family", "condition", "subset", *FIGURES]
    header += [f"{figure}_{end}" for figure in FIGURES for end in ends]
    header += [f"{figure}_gap{end}" for figure in FIGURES for end in ("", *(f"_{end}" for end in ends))]
    header += ["at_clean_threshold", "at_other_threshold", *(f"{name}_shift_{part}" for name, part in shifts)]
    rows: list[list[Any]] = [header]
    for result in results:
        for one in result.scores.conditions:
            start = [result.suite, result.benchmark, result.detector, one.family, one.name]
            for subset, values in one.subsets.items():
                rows.append([*start, subset, *map(values.get, FIGURES), *[None] * (len(header) - 10)])
            figures = [one.figures[name] for name in FIGURES]
            gaps = [one.gap.get(name, Estimate(None)) for name in FIGURES]
            rows.append(
                [
                    *start,
                    "MEAN",
                    *(figure.value for figure in figures),
                    *(getattr(figure, end) for figure in figures for end in ends),
                    *(getattr(gap, part) for gap in gaps for part in ("value", *ends)),
                    one.at_clean_threshold,
                    one.at_other_threshold,
                    *(getattr(one.shift.get(name), part, None) for name, part in shifts),
                ]
            )
    return csv_text(rows)


def write_results(results: Sequence[SuiteResult], folder: Path) -> None:
    """Write what suites came to into a folder: ``robustness.csv``, ``.html``, and a picture per suite and benchmark."""
    from mirror_pl.reports.robustness_page import robustness_page

    write_text(folder / "robustness.csv", results_csv(results))
    page, pictures = robustness_page(by_suite(results))
    for picture in pictures:
        write_text(folder / f"{picture.name}.svg", picture.svg)
    write_text(folder / "robustness.html", page)


def by_suite(results: Sequence[SuiteResult]) -> list[list[SuiteResult]]:
    """Put together what can stand side by side: results of the same conditions on the same benchmark."""

    def key(result: SuiteResult) -> tuple[str, str, tuple[str, ...]]:
        return result.suite, result.benchmark, tuple(one.name for one in result.scores.conditions)

    return [list(group) for _, group in groupby(sorted(results, key=key), key=key)]


def print_robustness(result: SuiteResult, console: Console) -> None:
    """Print the table of a suite, in percent, and below it what it comes to."""
    scores = result.scores
    title = f"{result.title}: {result.benchmark} (in %)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("condition", overflow="fold")
    for name in ("Bal_Acc", "", "Real_Acc", "Fake_Acc", "AUC", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    family = ""
    for one in scores.conditions:
        if one.family != family:
            table.add_section()
        figures = one.figures
        table.add_row(
            Text(printable(one.name)),
            percent(figures["bal_acc"].value),
            bracket(figures["bal_acc"]),
            *(percent(figures[name].value) for name in ("real_acc", "fake_acc", "auc")),
            percent(one.gap["bal_acc"].value) if one.gap else "",
        )
        family = one.family
    console.print(table)
    mean, gap, worst = scores.mean["bal_acc"], scores.mean_gap["bal_acc"], scores.worst["bal_acc"]
    lowest = next((one.figures["bal_acc"] for one in scores.conditions if one.name == worst), Estimate(None))
    print_plain(f"  mean over perturbations {percent(mean.value)} {bracket(mean)}", console)
    print_plain(f"  images as they are minus that: {signed(gap.value)} {bracket(gap)}", console)
    print_plain(f"  worst: {worst or '-'}, {percent(lowest.value)} {bracket(lowest)}", console)
    if scores.left_out:
        print_plain(f"  {scores.left_out:,} images lack a score under some condition, and are in no figure here", console)
