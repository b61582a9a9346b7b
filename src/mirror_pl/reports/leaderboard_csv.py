"""The leaderboard for programs: three CSV files, all fractions, an undefined one empty; and everything as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from mirror_pl.reports.leaderboard import EVERYTHING, Estimate, GroupMean, Leaderboard, Result, Row
from mirror_pl.scores.bootstrap import RESAMPLED
from mirror_pl.scores.extended import EXTENDED
from mirror_pl.texts import csv_text

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
