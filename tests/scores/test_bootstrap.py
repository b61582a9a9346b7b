"""The bootstrap: exact for given draws, of the right distribution, and covering what it says it covers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import erf, sqrt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prediction_tables import random_table, table_of
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

from mirror_pl.scores import RESAMPLED, Replicates, bootstrap, extended_scores, interval
from mirror_pl.scores.bootstrap import MAX_BINS, Resampler, _bin_starts
from mirror_pl.scores.columns import Columns, Stratum, columns, strata
from mirror_pl.scores.extended import extended_metrics

MODULE = sys.modules["mirror_pl.scores.bootstrap"]  # as an attribute of the room, the name is the function's


def prepared(table: pa.Table) -> tuple[Columns, list[Stratum]]:
    data = columns(table)
    scored = np.flatnonzero(data.scored)
    parts = strata(data.id[scored], data.subset[scored], data.label[scored])
    return data, [Stratum(part.label, part.members, scored[part.rows]) for part in parts]


def from_scikit_learn(
    label: NDArray[np.integer], logit: NDArray[np.floating], p_fake: NDArray[np.floating]
) -> dict[str, float]:
    """The metrics of RESAMPLED; NaN where undefined."""
    nan = float("nan")
    right = (logit > 0) == (label == 1)
    both = 0 < label.sum() < len(label)
    # No point is dropped: one between two others may be the last within the tolerated rate.
    fpr, tpr, _ = roc_curve(label, p_fake, drop_intermediate=False) if both else (np.zeros(1), np.full(1, nan), None)
    return {
        "acc": right.mean() if len(label) else nan,
        "real_acc": right[label == 0].mean() if (label == 0).any() else nan,
        "fake_acc": right[label == 1].mean() if (label == 1).any() else nan,
        "bal_acc": balanced_accuracy_score(label, logit > 0) if both else nan,
        "auc": roc_auc_score(label, p_fake) if both else nan,
        "ap": average_precision_score(label, p_fake) if both else nan,
        "tpr_at_0.1_fpr": tpr[fpr <= 0.001].max(),
        "tpr_at_1_fpr": tpr[fpr <= 0.01].max(),
        "tpr_at_5_fpr": tpr[fpr <= 0.05].max(),
        "eer": np.maximum(fpr, 1 - tpr).min(),
    }


@given(st.integers(0, 70), st.integers(0, 10**6), st.booleans())
@settings(max_examples=50, deadline=None)
def test_strata_are_classes_and_sets_of_subsets(size: int, seed: int, ties: bool) -> None:
    table = random_table(size, seed, ties, subsets=10)
    data, parts = prepared(table)
    expected: dict[tuple[int, tuple[int, ...]], set[int]] = {}
    for image in set(data.id[data.scored].tolist()):
        rows = np.flatnonzero(data.id == image)
        key = int(data.label[rows[0]]), tuple(sorted(data.subset[rows].tolist()))
        expected.setdefault(key, set()).add(image)
    got = {(part.label, part.members): part.rows for part in parts}
    assert len(got) == len(parts)
    assert {key: set(data.id[rows].tolist()) for key, rows in got.items()} == expected
    assert sum(map(len, got.values())) == sum(map(len, expected.values())), "each image has one row there"


@given(st.integers(1, 60), st.integers(0, 10**6), st.booleans())
@example(56, 154931, True)
@settings(max_examples=60, deadline=None)
def test_for_given_draws_equal_to_scikit_learn_on_the_images_drawn(size: int, seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    data, parts = prepared(random_table(size, seed, ties))
    if not parts:
        return
    resampler = Resampler(data, parts)
    draws = [generator.integers(0, len(part.rows), (2, len(part.rows))) for part in parts]
    got = resampler.metrics([scores.count(drawn.copy()) for scores, drawn in zip(resampler.scores, draws, strict=True)])
    assert got.shape == (len(data.names) + 1, len(RESAMPLED), 2)
    everything = set(range(len(data.names)))
    for replicate in range(2):
        for position, subsets in enumerate([*({i} for i in range(len(data.names))), everything]):
            rows = [np.empty(0, int)]
            for part, scores, drawn in zip(parts, resampler.scores, draws, strict=True):
                if subsets & set(part.members):
                    rows.append(part.rows[scores.order[drawn[replicate]]])
            here = np.concatenate(rows)
            expected = from_scikit_learn(data.label[here], data.logit[here], data.p_fake[here])
            for metric, value in zip(RESAMPLED, got[position, :, replicate], strict=True):
                assert value == pytest.approx(expected[metric], abs=1e-12, nan_ok=True), (metric, position)


@given(st.integers(0, 80), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_image_drawn_once_gives_the_metrics_themselves(size: int, seed: int, ties: bool) -> None:
    table = random_table(size, seed, ties)
    data, parts = prepared(table)
    scores = extended_scores(table)
    if parts:
        resampler = Resampler(data, parts)
        got = resampler.metrics([scores.number[None] for scores in resampler.scores])[..., 0]
        for values, row in zip(got, [*scores.rows.values(), scores.pooled], strict=True):
            for metric, value in zip(RESAMPLED, values, strict=True):
                expected = row[metric]
                assert value == pytest.approx(np.nan if expected is None else expected, abs=1e-12, nan_ok=True), metric
    replicates = bootstrap(table, replicates=3)
    assert list(replicates.rows) == list(scores.rows)
    for name in RESAMPLED:
        assert replicates.mean[name].shape == (3,)
        for values, row in zip(
            [*replicates.rows.values(), replicates.mean, replicates.pooled],
            [*scores.rows.values(), scores.mean, scores.pooled],
            strict=True,
        ):
            assert np.isnan(values[name]).all() == (row[name] is None)
            assert np.isnan(values[name]).any() == (row[name] is None)
            assert (interval(values[name]) is None) == (row[name] is None)


def shared_reals(size: int, seed: int, subsets: int = 3) -> pa.Table:
    """`size` reals that all subsets share, and `size` fakes of each."""
    generator = np.random.default_rng(seed)
    names, labels, logits, ids = [], [], [], []
    reals = generator.normal(-1, 1, size)
    for i in range(subsets):
        names += [f"s{i}"] * 2 * size
        labels += [0] * size + [1] * size
        logits += [reals, generator.normal(0.5 + 0.3 * i, 1, size)]
        ids += [np.arange(size), np.arange(size) + size * (i + 1)]
    return table_of(names, labels, np.concatenate(logits), np.concatenate(ids))


def test_the_distribution_is_that_of_a_plain_loop() -> None:
    table = shared_reals(40, 0)
    data = columns(table)
    generator = np.random.default_rng(1)
    reals = np.arange(40)
    slow: dict[str, list[list[float]]] = {"mean": [], "pooled": [], "s0": []}
    for _ in range(600):
        drawn_reals = generator.choice(reals, 40)
        drawn_fakes = [
            np.flatnonzero((data.subset == i) & (data.label == 1))[generator.integers(0, 40, 40)] for i in range(3)
        ]
        rows = []
        for here in [*(np.append(drawn_reals, fakes) for fakes in drawn_fakes), np.concatenate([drawn_reals, *drawn_fakes])]:
            metrics = extended_metrics(data.label[here], data.logit[here], data.p_fake[here])
            rows.append([metrics[name] for name in RESAMPLED])
        slow["s0"].append(rows[0])
        slow["mean"].append(np.mean(rows[:3], axis=0).tolist())
        slow["pooled"].append(rows[3])
    fast = bootstrap(table, replicates=6000)
    for name, got in (("s0", fast.rows["s0"]), ("mean", fast.mean), ("pooled", fast.pooled)):
        for position, metric in enumerate(RESAMPLED):
            expected = np.array(slow[name])[:, position]
            assert got[metric].mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / sqrt(600)), (name, metric)
            assert got[metric].std() == pytest.approx(expected.std(), rel=0.12), (name, metric)
    # Had each subset drawn its reals for itself, the mean's spread would be that of a mean of three independent values.
    independent = sqrt(sum(fast.rows[f"s{i}"]["real_acc"].var() for i in range(3))) / 3
    assert fast.mean["real_acc"].std() == pytest.approx(sqrt(3) * independent, rel=1e-6)
    np.testing.assert_allclose(fast.mean["real_acc"], fast.pooled["real_acc"], rtol=1e-15)


def same(first: Replicates, second: Replicates, subset: str) -> bool:
    return all(first.rows[subset][name].tobytes() == second.rows[subset][name].tobytes() for name in RESAMPLED)


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    table = shared_reals(33, 0)
    first = bootstrap(table, replicates=70, seed=5)
    assert not np.isnan(first.mean["ap"]).any()
    for again in (
        bootstrap(table, replicates=70, seed=5),
        bootstrap(table.take(np.random.default_rng(0).permutation(len(table))), replicates=70, seed=5),
    ):
        assert all(same(first, again, name) for name in ("s0", "s1", "s2"))
        assert first.pooled["ap"].tobytes() == again.pooled["ap"].tobytes()
    other = bootstrap(table, replicates=70, seed=6)
    assert not same(first, other, "s0")
    # One subset less, though it shares its reals with the others.
    fewer = bootstrap(table.filter(pc.not_equal(table["subset"].cast(pa.string()), "s1")), replicates=70, seed=5)
    assert list(fewer.rows) == ["s0", "s2"]
    assert same(first, fewer, "s0")
    assert same(first, fewer, "s2")
    # In smaller portions.
    for at_once in (1, 1000):
        monkeypatch.setattr(MODULE, "_DRAWN_AT_ONCE", at_once)
        portions = bootstrap(table, replicates=70, seed=5)
        assert all(same(first, portions, name) for name in ("s0", "s1", "s2"))
        assert first.mean["auc"].tobytes() == portions.mean["auc"].tobytes()
    longer = bootstrap(table, replicates=71, seed=5)
    np.testing.assert_array_equal(longer.mean["auc"][:70], first.mean["auc"])


def test_strata_and_benchmarks_have_random_numbers_of_their_own() -> None:
    logit = np.linspace(-1, 1, 50)
    tables = [table_of(["a"] * 50, [1] * 50, logit, benchmark=name) for name in "xy"]
    draws = [bootstrap(table, replicates=100).rows["a"]["acc"] for table in tables]
    assert (draws[0] != draws[1]).any()
    both = bootstrap(table_of(["a"] * 50 + ["b"] * 50, [1] * 100, np.append(logit, logit)), replicates=100)
    assert (both.rows["a"]["acc"] != both.rows["b"]["acc"]).any()


@pytest.mark.parametrize("max_bins", [16, 128])
def test_bins_move_ranks_by_no_more_than_their_share_and_decisions_not_at_all(max_bins: int) -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 3000)
    logit = generator.normal(size=3000) + label * 2 - 1
    logit[generator.random(3000) < 0.2] = 0.5  # a heavy tie
    data, parts = prepared(table_of(["a"] * 3000, label, logit))
    exact = Resampler(data, parts)
    counts = [scores.draw(generator, 100) for scores in exact.scores]
    of_exact = dict(zip(RESAMPLED, exact.metrics(counts)[0], strict=True))
    of_binned = dict(zip(RESAMPLED, Resampler(data, parts, max_bins).metrics(counts)[0], strict=True))
    for name in ("acc", "real_acc", "fake_acc", "bal_acc"):
        np.testing.assert_array_equal(of_binned[name], of_exact[name])
    for name in ("auc", "ap", "tpr_at_0.1_fpr", "tpr_at_1_fpr", "tpr_at_5_fpr", "eer"):
        moved = np.abs(of_binned[name] - of_exact[name])
        assert 0 < moved.max() < 2 / max_bins, name
        np.testing.assert_allclose(interval(of_binned[name]), interval(of_exact[name]), atol=1.5 / max_bins)


@given(st.integers(0, 300), st.integers(1, 50), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_bins(size: int, max_bins: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    p_fake, number = np.unique(generator.normal(size=size).round(generator.integers(1, 4)), return_counts=True)
    starts = _bin_starts(p_fake, number, max_bins)
    if len(p_fake) <= max_bins:
        assert starts.tolist() == list(range(len(p_fake)))
        return
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    assert len(starts) <= 3 * max_bins
    for bin_number in np.split(number, starts[1:]):
        assert len(bin_number) == 1 or bin_number.sum() <= 2 * number.sum() / max_bins


def test_the_default_is_exact_for_16384_scores() -> None:
    assert len(_bin_starts(np.arange(MAX_BINS), np.ones(MAX_BINS, int), MAX_BINS)) == MAX_BINS == 16384


def test_interval() -> None:
    values = np.arange(1001) / 1000
    assert interval(values) == pytest.approx((0.025, 0.975))
    assert interval(values[::-1], 0.5) == pytest.approx((0.25, 0.75))
    assert interval(np.full(5, np.nan)) is None
    assert interval(np.empty(0)) is None


def test_all_right_is_a_point_and_one_image_too() -> None:
    perfect = bootstrap(table_of(["a"] * 40, [0, 1] * 20, np.array([-1, 1] * 20) * np.arange(1, 41)), replicates=50)
    for name in RESAMPLED:
        assert interval(perfect.rows["a"][name]) == ((0, 0) if name == "eer" else (1, 1)), name
    one = bootstrap(table_of(["a"], [0], [3.0]), replicates=5)
    assert interval(one.rows["a"]["acc"]) == interval(one.mean["real_acc"]) == (0, 0)
    assert interval(one.rows["a"]["bal_acc"]) is interval(one.pooled["auc"]) is None


def test_no_image() -> None:
    for table in (table_of([], [], []), table_of(["a"], [0], [1.0], statuses=[2])):
        replicates = bootstrap(table, replicates=5)
        assert list(replicates.rows) == table["subset"].unique().to_pylist()
        assert all(interval(replicates.mean[name]) is interval(replicates.pooled[name]) is None for name in RESAMPLED)
        assert all(replicates.mean[name].shape == (5,) for name in RESAMPLED)


REAL_MEANS, FAKE_MEANS = (-1.28, -0.84, -0.52), (0.52, 0.9, 1.28)  # accuracies of 0.7 to 0.9


def below(value: float) -> float:
    """The standard normal distribution function."""
    return (1 + erf(value / sqrt(2))) / 2


def benchmarks(simulations: int, size: int, shared: bool) -> Iterator[pa.Table]:
    generator = np.random.default_rng(0)
    ids = np.arange(6 * size).reshape(3, 2, size)
    if shared:
        ids[:, 0] = np.arange(size)
    names = np.repeat(["a", "b", "c"], 2 * size).tolist()
    label = np.tile(np.repeat([0, 1], size), 3)
    for _ in range(simulations):
        logit = generator.normal(size=(3, 2, size)) + np.stack([REAL_MEANS, FAKE_MEANS], axis=1)[..., None]
        if shared:
            logit[:, 0] = logit[0, 0]
        yield table_of(names, label, logit.ravel(), ids.ravel())


def truth(shared: bool) -> dict[str, float]:
    reals = REAL_MEANS[:1] * 3 if shared else REAL_MEANS
    bal_acc = sum(below(-real) + below(fake) for real, fake in zip(reals, FAKE_MEANS, strict=True)) / 6
    return {
        "mean bal_acc": bal_acc,
        "mean auc": sum(below((fake - real) / sqrt(2)) for real, fake in zip(reals, FAKE_MEANS, strict=True)) / 3,
        "pooled bal_acc": bal_acc,
        "pooled auc": sum(below((fake - real) / sqrt(2)) for real in reals for fake in FAKE_MEANS) / 9,
        "subset bal_acc": (below(-reals[1]) + below(FAKE_MEANS[1])) / 2,
    }


def coverage(simulations: int, size: int, replicates: int, shared: bool) -> dict[str, float]:
    """How often the interval holds what holds for all images that there could be."""
    expected = truth(shared)
    held = dict.fromkeys(expected, 0)
    for seed, table in enumerate(benchmarks(simulations, size, shared)):
        drawn = bootstrap(table, replicates=replicates, seed=seed)
        values = {"mean": drawn.mean, "pooled": drawn.pooled, "subset": drawn.rows["b"]}
        for name, value in expected.items():
            which, metric = name.split()
            low, high = interval(values[which][metric])
            held[name] += low <= value <= high
    return {name: count / simulations for name, count in held.items()}


@pytest.mark.parametrize("shared", [False, True])
def test_coverage_roughly(shared: bool) -> None:
    """With 100 images and 200 replicates 93.8 % are to be had; the standard error of 300 simulations is 1.4 %.

    Were shared reals drawn anew for each subset, the mean's intervals would hold 78 %.
    """
    for name, share in coverage(300, 100, 200, shared).items():
        assert share == pytest.approx(0.938, abs=0.045), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shared", [False, True])
def test_coverage(shared: bool) -> None:
    shares = coverage(2400, 400, 500, shared)
    print(shares)
    for name, share in shares.items():
        assert share == pytest.approx(0.95, abs=0.02), name
