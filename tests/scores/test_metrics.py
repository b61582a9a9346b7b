"""Metrics against scikit-learn, and what is undefined."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, recall_score, roc_auc_score

from mirror_pl.scores import METRICS, SubsetScores, make_table, score_benchmark
from mirror_pl.scores.metrics import average, subset_metrics
from mirror_pl.scores.streaming import SubsetBalancedAccuracy
from mirror_pl.scores.table import Status


def sigmoid(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    return torch.from_numpy(logit).sigmoid().numpy()


def case(size: int, seed: int, ties: bool) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, size).astype(np.int8)
    logit = (generator.normal(size=size) * 3 + label).astype(np.float32)
    if ties:
        logit = logit.round()
    return label, logit, sigmoid(logit)


@given(st.integers(1, 80), st.integers(0, 10**6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn(size: int, seed: int, ties: bool) -> None:
    label, logit, p_fake = case(size, seed, ties)
    metrics = subset_metrics(label, logit, p_fake)
    decided = (logit > 0).astype(int)
    assert metrics["acc"] == pytest.approx(accuracy_score(label, decided), abs=1e-12)
    for name, cls in (("real_acc", 0), ("fake_acc", 1)):
        if (label == cls).any():
            expected = recall_score(label, decided, pos_label=cls, zero_division=0)
            assert metrics[name] == pytest.approx(expected, abs=1e-12)
        else:
            assert metrics[name] is None
    if 0 < label.sum() < size:
        assert metrics["bal_acc"] == pytest.approx(balanced_accuracy_score(label, decided), abs=1e-12)
        assert metrics["auc"] == pytest.approx(roc_auc_score(label, p_fake), abs=1e-12)
        assert metrics["ap"] == pytest.approx(average_precision_score(label, p_fake), abs=1e-12)
    else:
        assert metrics["bal_acc"] is metrics["auc"] is metrics["ap"] is None


def test_saturated_probabilities_tie() -> None:
    """float32 p_fake is 1 for every logit above 17 or so: ranks are those of the published probabilities."""
    logit = np.array([20, 30, 40, -1], np.float32)
    metrics = subset_metrics(np.array([0, 1, 1, 0]), logit, sigmoid(logit))
    assert metrics["auc"] == 0.75


def test_a_logit_of_zero_is_decided_real() -> None:
    zero = np.zeros(2, np.float32)
    assert subset_metrics(np.array([0, 1]), zero, sigmoid(zero))["real_acc"] == 1.0


def test_nothing_scored_is_undefined() -> None:
    empty = np.empty(0, np.float32)
    assert set(subset_metrics(np.empty(0, np.int8), empty, empty).values()) == {None}


def table(rows: list[tuple[str, int, float, Status]]) -> object:
    names = list(dict.fromkeys(name for name, *_ in rows))
    logits = np.array([logit for _, _, logit, _ in rows], np.float32)
    return make_table(
        ids=np.arange(len(rows)),
        paths=[f"{i}.png" for i in range(len(rows))],
        benchmark="x",
        subsets=names,
        subset_ids=np.array([names.index(name) for name, *_ in rows]),
        labels=np.array([label for _, label, *_ in rows]),
        statuses=np.array([status for *_, status in rows]),
        logits=logits,
        p_fake=sigmoid(logits),
    )


NAN = float("nan")
MIXED = [
    ("both", 0, -1.0, Status.OK),
    ("both", 1, 2.0, Status.TRUNCATED),
    ("both", 1, NAN, Status.UNDECODABLE),
    ("fakes", 1, 3.0, Status.OK),
    ("fakes", 1, -3.0, Status.OK),
    ("broken", 0, NAN, Status.NON_FINITE),
]


def test_rows_mean_and_what_is_undefined() -> None:
    scores = score_benchmark(table(MIXED))
    both, fakes, broken = scores.rows
    assert both == SubsetScores("both", 1, 1, 1, dict.fromkeys(METRICS, 1.0))
    assert (fakes.reals, fakes.fakes, fakes.unscored) == (0, 2, 0)
    assert fakes.metrics == {"acc": 0.5, "real_acc": None, "fake_acc": 0.5, "bal_acc": None, "auc": None, "ap": None}
    assert broken.unscored == 1
    assert set(broken.metrics.values()) == {None}
    assert scores.mean == {"acc": 0.75, "real_acc": 1.0, "fake_acc": 0.75, "bal_acc": 1.0, "auc": 1.0, "ap": 1.0}
    assert scores.mean_rows == {"acc": 2, "real_acc": 1, "fake_acc": 2, "bal_acc": 1, "auc": 1, "ap": 1}
    assert scores.mean_is_partial


def test_the_published_quirks_on_request() -> None:
    scores = score_benchmark(table(MIXED), compat="published")
    fakes = scores.rows[1].metrics
    assert (fakes["real_acc"], fakes["fake_acc"], fakes["bal_acc"]) == (0.0, 0.5, 0.25)
    both = scores.rows[0]
    assert both.reals + both.fakes == 3, "the undecodable one was replaced by another of its subset"
    assert scores == score_benchmark(table(MIXED), compat="published"), "by the same one every time"
    assert score_benchmark(table(MIXED[:2])).rows == score_benchmark(table(MIXED[:2]), compat="published").rows


def test_pooled_counts_shared_images_once() -> None:
    logits = np.array([-1, 2, -1, 3, -4], np.float32)
    shared = make_table(
        ids=np.array([0, 1, 0, 2, 3]),  # the real 0 serves both subsets
        paths=list("rarbc"),
        benchmark="x",
        subsets=["a", "b"],
        subset_ids=np.array([0, 0, 1, 1, 1]),
        labels=np.array([0, 1, 0, 1, 1]),
        statuses=np.zeros(5, int),
        logits=logits,
        p_fake=sigmoid(logits),
    )
    scores = score_benchmark(shared)
    assert [(row.reals, row.fakes) for row in (*scores.rows, scores.pooled)] == [(1, 1), (1, 2), (1, 3)]
    assert scores.pooled.metrics["fake_acc"] == pytest.approx(2 / 3)
    assert scores.mean["fake_acc"] == 0.75


def test_the_mean_is_unweighted() -> None:
    rows = [SubsetScores(str(i), 1, 1, 0, dict.fromkeys(METRICS, value)) for i, value in enumerate((0.2, 0.6))]
    assert average(rows, rows[0]).mean["auc"] == pytest.approx(0.4)
    assert not average(rows, rows[0]).mean_is_partial


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_streaming_equals_scikit_learn_for_any_batches(size: int, batch: int, seed: int) -> None:
    label, logit, _ = case(size, seed, ties=False)
    subset = np.random.default_rng(seed).integers(0, 3, size)
    metric = SubsetBalancedAccuracy(torch.eye(3, dtype=torch.bool))
    for start in range(0, size, batch):
        part = slice(start, start + batch)
        metric.update(*(torch.from_numpy(column[part]) for column in (logit > 0, label, subset)))
    for position, value in enumerate(metric.compute().tolist()):
        here = subset == position
        if len(set(label[here])) < 2:
            assert np.isnan(value)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = balanced_accuracy_score(label[here], logit[here] > 0)
        assert value == pytest.approx(expected, abs=1e-12)


def test_streaming_counts_shared_reals_in_every_subset_they_serve() -> None:
    members = torch.tensor([[True, False, True], [False, True, True]])  # two subsets of fakes, one set of reals
    metric = SubsetBalancedAccuracy(members)
    metric.update(
        torch.tensor([True, False, True, True, False]),
        torch.tensor([1, 1, 1, 0, 0]),
        torch.tensor([0, 0, 1, 2, 2]),
    )
    assert metric.compute().tolist() == [0.5, 0.75]
