"""The extended metrics: that they agree with the published ones, and what is undefined."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import random_table, table_of

from mirror_pl.scores import (
    EXTENDED,
    METRICS,
    brier_score,
    equal_error_rate,
    expected_calibration_error,
    extended_scores,
    negative_log_likelihood,
    score_benchmark,
    tpr_at_fpr,
)


@given(st.integers(0, 60), st.integers(0, 10**6), st.booleans())
@settings(max_examples=80, deadline=None)
def test_equal_to_score_benchmark_on_its_metrics(size: int, seed: int, ties: bool) -> None:
    table = random_table(size, seed, ties)
    expected, got = score_benchmark(table), extended_scores(table)
    assert list(got.rows) == [row.subset for row in expected.rows]
    for row in expected.rows:
        assert tuple(got.rows[row.subset]) == EXTENDED
        assert {name: got.rows[row.subset][name] for name in METRICS} == row.metrics
        assert got.counts[row.subset] == (row.reals, row.fakes, row.unscored)
    assert {name: got.mean[name] for name in METRICS} == expected.mean
    assert {name: got.mean_rows[name] for name in METRICS} == expected.mean_rows
    assert {name: got.pooled[name] for name in METRICS} == expected.pooled.metrics
    assert got.pooled_counts == (expected.pooled.reals, expected.pooled.fakes, expected.pooled.unscored)


def test_the_others_are_those_of_their_functions() -> None:
    table = random_table(400, 0)
    kept = table.filter(pa.compute.is_valid(table["logit"]))
    here = kept.filter(pa.compute.equal(kept["subset"].cast(pa.string()), "s1"))
    label, p_fake = here["label"].to_numpy(), here["p_fake"].to_numpy()
    row = extended_scores(table).rows["s1"]
    assert row["tpr_at_0.1_fpr"] == tpr_at_fpr(label, p_fake, 0.001)
    assert row["tpr_at_1_fpr"] == tpr_at_fpr(label, p_fake, 0.01)
    assert row["tpr_at_5_fpr"] == tpr_at_fpr(label, p_fake, 0.05)
    assert row["eer"] == equal_error_rate(label, p_fake)
    assert row["nll"] == negative_log_likelihood(label, here["logit"].to_numpy())
    assert row["ece_mass"] == expected_calibration_error(label, p_fake, equal_mass=True)
    assert row["ece"] == pytest.approx(expected_calibration_error(label, p_fake))
    assert row["brier"] == pytest.approx(brier_score(label, p_fake))


def test_undefined() -> None:
    scores = extended_scores(table_of(["a", "a", "fakes", "broken"], [0, 1, 1, 0], [-1, 2, 3, 0], statuses=[0, 0, 0, 3]))
    assert None not in scores.rows["a"].values()
    fakes = scores.rows["fakes"]
    assert [name for name in EXTENDED if fakes[name] is None] == [
        "real_acc", "bal_acc", "auc", "ap", "tpr_at_0.1_fpr", "tpr_at_1_fpr", "tpr_at_5_fpr", "eer",
    ]  # fmt: skip
    assert set(scores.rows["broken"].values()) == {None}
    assert scores.counts == {"a": (1, 1, 0), "fakes": (0, 1, 0), "broken": (0, 0, 1)}
    assert scores.mean_rows == {
        **dict.fromkeys(EXTENDED, 1), **dict.fromkeys(("acc", "fake_acc", "ece", "ece_mass", "brier", "nll"), 2),
    }  # fmt: skip
    assert scores.pooled_counts == (1, 2, 1)


def test_no_row() -> None:
    scores = extended_scores(table_of([], [], []))
    assert scores.rows == scores.counts == {}
    assert set(scores.mean.values()) == set(scores.pooled.values()) == {None}
    assert scores.pooled_counts == (0, 0, 0)


def test_tables_put_together_or_cut_keep_their_subsets() -> None:
    """Each part has a dictionary of its own, and a cut one has names that no row has."""
    parts = [table_of(["b", "a"], [0, 1], [-1, 1], [0, 1]), table_of(["a", "c"], [0, 0], [1, -1], [2, 3])]
    together = pa.concat_tables(parts)
    scores = extended_scores(together)
    assert list(scores.rows) == ["b", "a", "c"]
    assert scores.counts == {"b": (1, 0, 0), "a": (1, 1, 0), "c": (1, 0, 0)}
    assert list(extended_scores(together.slice(3)).rows) == ["c"]
