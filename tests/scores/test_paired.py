"""Two detectors compared: the test against scipy, the difference against the metrics, the interval against a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, replace
from math import erf, sqrt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prediction_tables import random_table, table_of
from scipy.stats import binomtest

from mirror_pl.scores import PairedComparison, compare, compare_many, extended_scores
from mirror_pl.scores.paired import _mcnemar, _paired


def by_another_detector(table: pa.Table, seed: int, unscored: float = 0.1) -> pa.Table:
    """The same images in another order, with scores that resemble the first detector's; some have none."""
    generator = np.random.default_rng(seed)
    _, first, image = np.unique(table["id"].to_numpy(), return_index=True, return_inverse=True)
    logit = np.nan_to_num(table["logit"].to_numpy())[first] + generator.normal(size=len(first)) * 2
    status = np.where(generator.random(len(first)) < unscored, 3, 0)
    order = generator.permutation(len(image))
    subset, label, ids = (table[name].to_numpy()[order] for name in ("subset", "label", "id"))
    return table_of(subset.tolist(), label, logit[image][order], ids, status[image][order])


@given(st.integers(0, 60), st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_counts_and_difference_are_those_of_the_images_that_both_score(size: int, seed: int) -> None:
    first = random_table(size, seed)
    second = by_another_detector(first, seed)
    got = compare(first, second, replicates=20)

    scores = [{row["path"]: row for row in table.to_pylist() if row["logit"] is not None} for table in (first, second)]
    common = sorted(scores[0].keys() & scores[1].keys())
    right = [[(rows[path]["logit"] > 0) == bool(rows[path]["label"]) for path in common] for rows in scores]
    only_first = sum(a and not b for a, b in zip(*right, strict=True))
    only_second = sum(b and not a for a, b in zip(*right, strict=True))
    assert (got.images, got.only_first_right, got.only_second_right) == (len(common), only_first, only_second)
    assert got.reals == sum(not scores[0][path]["label"] for path in common)
    assert got.reals + got.fakes == got.images
    assert (got.unmatched, got.left_out) == (0, len(set(first["path"].to_pylist())) - len(common))
    if not common:
        assert got.p_value is None
    elif only_first + only_second == 0:
        assert got.p_value == 1
    else:
        assert got.p_value == pytest.approx(binomtest(only_first, only_first + only_second, 0.5).pvalue)

    keep = [[row["path"] in common for row in table.to_pylist()] for table in (first, second)]
    means = [
        extended_scores(table.filter(pa.array(kept, pa.bool_()))).mean["bal_acc"]
        for table, kept in zip((first, second), keep, strict=True)
    ]
    if means[0] is None:
        assert got.difference is got.low is got.high is None
    else:
        assert got.difference == pytest.approx(means[0] - means[1], abs=1e-12)
        assert got.low <= got.high


def test_the_other_way_round() -> None:
    first = random_table(300, 1)
    second = by_another_detector(first, 1)
    there, back = compare(first, second), compare(second, first)
    assert there.only_first_right > there.only_second_right > 0
    assert (there.only_first_right, there.only_second_right) == (back.only_second_right, back.only_first_right)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.difference == pytest.approx(-back.difference)
    assert there.low == pytest.approx(-back.high, abs=0.1 * (there.high - there.low))


def test_mcnemar_example() -> None:
    """10 against 3: twice the tail of Binomial(13, 1/2), 2 x 378 / 8192."""
    assert _mcnemar(10, 3) == pytest.approx(2 * 378 / 8192)
    assert _mcnemar(5, 5) == _mcnemar(0, 0) == 1
    assert _mcnemar(0, 1) == 1
    assert 0 < _mcnemar(300_000, 303_000) < 1e-3


def test_images_are_matched_by_path_not_by_id_or_row() -> None:
    first = table_of(["a"] * 4, [0, 0, 1, 1], [-1, 1, 1, -1], [0, 1, 2, 3])
    second = table_of(["a"] * 4, [1, 1, 0, 0], [1, 1, -1, -1], [3, 2, 1, 9])
    other_ids = second.set_column(0, first.schema.field("id"), pa.array([70, 71, 72, 73]))
    for table in (second, other_ids):
        got = compare(first, table)
        assert got == replace(got, images=3, reals=1, fakes=2, only_first_right=0, only_second_right=2, p_value=0.5)
        assert (got.unmatched, got.left_out) == (2, 0)
        assert got.difference == (0 - 1) / 2 + (0.5 - 1) / 2


def test_another_label_and_another_benchmark_are_no_match() -> None:
    first = table_of(["a"] * 3, [0, 1, 1], [-1, 1, 1])
    relabelled = table_of(["a"] * 3, [0, 1, 0], [-1, 1, 1])
    got = compare(first, relabelled)
    assert (got.images, got.unmatched, got.left_out) == (2, 0, 1)
    elsewhere = table_of(["a"] * 3, [0, 1, 1], [-1, 1, 1], benchmark="y")
    assert compare(first, elsewhere) == PairedComparison(0, 0, 0, 0, 0, None, None, None, None, 6, 0)


def test_a_subset_counts_what_both_tables_have_in_it() -> None:
    """The second table has the shared real 0 in subset a only, and calls another subset otherwise."""
    first = table_of(["a", "a", "b", "b", "c", "c"], [0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1], [0, 1, 0, 2, 3, 4])
    second = table_of(["d", "d", "b", "a", "a"], [1, 0, 1, 1, 0], [1, -1, 1, 1, -1], [4, 3, 2, 1, 0])
    got = compare(first, second)
    assert (got.images, got.only_second_right) == (5, 2)
    assert got.difference == -0.5, "of subset a alone"
    assert (compare(second, first).images, compare(second, first).difference) == (5, 0.5)


def test_one_class_one_image_and_none() -> None:
    one = compare(table_of(["a"], [1], [1.0]), table_of(["a"], [1], [-1.0]))
    assert one == PairedComparison(1, 0, 1, 1, 0, 1.0, None, None, None, 0, 0)
    nothing = table_of([], [], [])
    assert compare(nothing, nothing) == PairedComparison(0, 0, 0, 0, 0, None, None, None, None, 0, 0)
    assert compare(nothing, table_of(["a"], [1], [1.0])).unmatched == 1
    assert compare_many([]) == PairedComparison(0, 0, 0, 0, 0, None, None, None, None, 0, 0)


def test_with_itself_the_interval_is_a_point() -> None:
    table = random_table(100, 2)
    got = compare(table, table)
    assert (got.p_value, got.difference, got.low, got.high) == (1, 0, 0, 0)
    assert got.images == got.reals + got.fakes > 80


def test_the_distribution_is_that_of_a_plain_loop() -> None:
    """Two subsets with the same 30 reals."""
    generator = np.random.default_rng(0)
    label = np.tile(np.repeat([0, 1], 30), 2)
    image = np.concatenate([np.arange(60), np.arange(30), np.arange(60, 90)])
    strength = generator.normal(size=90)
    right = np.stack([strength + generator.normal(size=90) * 0.5 + shift > 0 for shift in (0.9, 0.5)])
    tables = [table_of(["a"] * 60 + ["b"] * 60, label, np.where(r[image] == label, 1, -1), image) for r in right]
    got = _paired(*tables, replicates=20000, seed=0).replicates

    gain = right[0].astype(int) - right[1]
    slow = []
    for _ in range(4000):
        reals, a, b = (generator.integers(start, start + 30, 30) for start in (0, 30, 60))
        slow.append((2 * gain[reals].mean() + gain[a].mean() + gain[b].mean()) / 4)
    assert np.std(slow) > 0.02
    assert got.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / sqrt(4000))
    assert got.std() == pytest.approx(np.std(slow), rel=0.06)
    for share in (0.025, 0.25, 0.975):
        assert np.quantile(got, share) == pytest.approx(np.quantile(slow, share), abs=0.2 * np.std(slow))
    ends = compare(*tables, replicates=20000)
    assert (ends.low, ends.high) == tuple(np.quantile(got, [0.025, 0.975]))
    half = compare(*tables, replicates=20000, level=0.5)
    assert ends.low < half.low < half.difference < half.high < ends.high


def test_the_same_seed_gives_the_same_figures_whatever_the_order_of_rows() -> None:
    first = random_table(200, 3)
    second = by_another_detector(first, 3)
    got = compare(first, second, seed=1)
    shuffled = first.take(np.random.default_rng(0).permutation(len(first)))
    again = compare(shuffled, second, seed=1)
    assert astuple(got) == pytest.approx(astuple(again), abs=1e-12)
    other = compare(first, second, seed=2)
    assert (other.low, other.high) != (got.low, got.high)


def test_many_benchmarks_are_averaged_and_their_images_added_up() -> None:
    """Their paths are the same."""
    logits = np.random.default_rng(0).normal(size=(2, 2, 80)) + np.array([[0.8], [0.2]])
    label = np.tile([0, 1], 40)
    tables = [
        [table_of(["a"] * 80, label, x * (2 * label - 1), benchmark=name) for x in pair]
        for name, pair in zip("xy", logits, strict=True)
    ]
    single = [compare(*pair) for pair in tables]
    both = compare_many([tuple(pair) for pair in tables])
    assert (both.images, both.reals, both.fakes, both.unmatched) == (160, 80, 80, 0)
    assert both.only_first_right == sum(one.only_first_right for one in single) > 0
    assert both.only_second_right == sum(one.only_second_right for one in single) > 0
    assert both.p_value == pytest.approx(
        binomtest(both.only_first_right, both.only_first_right + both.only_second_right).pvalue
    )
    assert both.difference == pytest.approx(np.mean([one.difference for one in single]))
    replicates = [_paired(*pair, replicates=1000, seed=0).replicates for pair in tables]
    assert abs(np.corrcoef(*replicates)[0, 1]) < 0.12, "each benchmark has random numbers of its own"
    assert (both.low, both.high) == pytest.approx(tuple(np.quantile(np.mean(replicates, axis=0), [0.025, 0.975])))
    # One that has no difference is left out of the mean, not taken for 0.
    fakes = table_of(["a"], [1], [1.0], benchmark="z")
    with_another = compare_many([*(tuple(pair) for pair in tables), (fakes, fakes)])
    assert (with_another.images, with_another.difference) == (161, both.difference)


SHIFTS = ((0.6, 1.2), (0.9, 1.1), (1.2, 0.9))  # of the first detector and the second: accuracies of 0.7 to 0.9


def below(value: float) -> float:
    return (1 + erf(value / sqrt(2))) / 2


def pairs(simulations: int, size: int, shared: bool) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Three subsets; the detectors' errors are correlated. Shared reals are as hard as those of the first subset."""
    generator = np.random.default_rng(11)
    ids = np.arange(6 * size).reshape(3, 2, size)
    if shared:
        ids[:, 0] = np.arange(size)
    names = np.repeat(["a", "b", "c"], 2 * size).tolist()
    label = np.tile(np.repeat([0, 1], size), 3)
    for _ in range(simulations):
        common = generator.normal(size=(3, 2, size))
        tables = []
        for detector in range(2):
            margin: NDArray[np.float64] = common * sqrt(0.6) + generator.normal(size=common.shape) * sqrt(0.4)
            margin += np.array(SHIFTS)[:, detector, None, None]
            if shared:
                margin[:, 0] = margin[0, 0]
            tables.append(table_of(names, label, margin.ravel() * (2 * label - 1), ids.ravel()))
        yield tables[0], tables[1]


def coverage(simulations: int, size: int, replicates: int, shared: bool) -> float:
    gains = [below(first) - below(second) for first, second in SHIFTS]
    expected = (3 * gains[0] + sum(gains)) / 6 if shared else sum(gains) / 3
    held = 0
    for seed, (first, second) in enumerate(pairs(simulations, size, shared)):
        got = compare(first, second, replicates=replicates, seed=seed)
        held += got.low <= expected <= got.high
    return held / simulations


@pytest.mark.parametrize("shared", [False, True])
def test_coverage_roughly(shared: bool) -> None:
    """The standard error of 200 simulations is 1.6 %, and 100 images and 300 replicates lose 1 %."""
    assert coverage(200, 100, 300, shared) == pytest.approx(0.94, abs=0.045)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shared", [False, True])
def test_coverage(shared: bool) -> None:
    share = coverage(2000, 400, 1000, shared)
    print(share)
    assert share == pytest.approx(0.95, abs=0.02)
