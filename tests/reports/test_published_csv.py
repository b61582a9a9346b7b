"""The published CSV, and what it says beyond what the published script can."""

from __future__ import annotations

from dataclasses import replace

from mirror_pl.reports import published_csv
from mirror_pl.scores import METRICS, SubsetScores
from mirror_pl.scores.metrics import BenchmarkScores, Compat, average

HEADER = "Dataset,Acc,Real_Acc,Fake_Acc,Bal_Acc,AUC,AP\n"
GOOD = SubsetScores("good", 2, 2, 0, {"acc": 0.75, "real_acc": 1.0, "fake_acc": 0.5, "bal_acc": 0.75, "auc": 1.0, "ap": 1.0})
FAKES = SubsetScores("fakes", 0, 2, 0, {**dict.fromkeys(METRICS, None), "acc": 0.5, "fake_acc": 0.5})


def report(rows: list[SubsetScores], compat: Compat = None) -> BenchmarkScores:
    return average(rows, GOOD, compat)


def test_a_subset_is_no_formula() -> None:
    assert published_csv(report([replace(GOOD, subset="=1+1")])) == HEADER + "'=1+1,0.75,1.0,0.5,0.75,1.0,1.0\n"


def test_one_row_has_no_mean() -> None:
    assert published_csv(report([GOOD])) == HEADER + "good,0.75,1.0,0.5,0.75,1.0,1.0\n"


def test_two_rows_have_a_mean() -> None:
    assert published_csv(report([GOOD, GOOD])).splitlines()[-1] == "MEAN,0.75,1.0,0.5,0.75,1.0,1.0"


def test_undefined_values_are_empty_and_the_mean_says_how_many_rows_entered() -> None:
    assert published_csv(report([GOOD, FAKES])).splitlines()[2:] == [
        "fakes,0.5,,0.5,,,",
        "MEAN,0.625,1.0,0.5,0.75,1.0,1.0",
        "MEAN_ROWS,2,1,2,1,1,1",
    ]
    assert "MEAN_ROWS" not in published_csv(report([GOOD, FAKES], compat="published"))
    assert published_csv(report([FAKES, FAKES])).splitlines()[3:] == ["MEAN,0.5,,0.5,,,", "MEAN_ROWS,2,0,2,0,0,0"]


def test_a_pooled_row_comes_last_where_the_published_report_has_one() -> None:
    assert published_csv(report([GOOD, GOOD]), pooled_row="ALL").splitlines()[-1] == "ALL,0.75,1.0,0.5,0.75,1.0,1.0"
    assert published_csv(report([GOOD]), pooled_row="ALL").count("\n") == 2
