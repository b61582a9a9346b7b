"""Curves against scikit-learn, what is read off them, and thinning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from mirror_pl.errors import DataError
from mirror_pl.scores import Curve, equal_error_rate, precision_recall_curve, roc_curve, smallest_fpr, thin, tpr_at_fpr
from mirror_pl.scores.curves import tolerated, tpr_on_curve
from mirror_pl.scores.metrics import auroc, average_precision


def case(size: int, seed: int, ties: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Both classes are there."""
    generator = np.random.default_rng(seed)
    label = np.append([0, 1], generator.integers(0, 2, size))
    score = (generator.normal(size=size + 2) * 2 + label).astype(np.float32)
    return label, score.round() if ties else score


cases = given(st.integers(0, 80), st.integers(0, 10**6), st.booleans())


@cases
@settings(max_examples=100, deadline=None)
def test_roc_is_scikit_learns(size: int, seed: int, ties: bool) -> None:
    label, score = case(size, seed, ties)
    fpr, tpr, threshold = sklearn_metrics.roc_curve(label, score, drop_intermediate=False)
    curve = roc_curve(label, score)
    np.testing.assert_allclose(curve.x, fpr, atol=1e-15)
    np.testing.assert_allclose(curve.y, tpr, atol=1e-15)
    np.testing.assert_array_equal(curve.threshold, threshold)
    assert len(curve.x) == len(np.unique(score)) + 1
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(auroc(label, score), abs=1e-12)


@cases
@settings(max_examples=100, deadline=None)
def test_precision_recall_is_scikit_learns(size: int, seed: int, ties: bool) -> None:
    label, score = case(size, seed, ties)
    precision, recall, threshold = sklearn_metrics.precision_recall_curve(label, score)
    curve = precision_recall_curve(label, score)
    np.testing.assert_allclose(curve.x, recall[::-1], atol=1e-15)
    np.testing.assert_allclose(curve.y, precision[::-1], atol=1e-15)
    np.testing.assert_array_equal(curve.threshold[1:], threshold[::-1])
    assert np.sum(np.diff(curve.x) * curve.y[1:]) == pytest.approx(average_precision(label, score), abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.29, 0.5, 1.0]))
@settings(max_examples=150, deadline=None)
def test_tpr_at_fpr_is_the_best_of_all_thresholds(size: int, seed: int, ties: bool, fpr: float) -> None:
    label, score = case(size, seed, ties)
    thresholds = [np.inf, *score.tolist()]
    reached = [((score[label == 0] >= t).mean(), (score[label == 1] >= t).mean()) for t in thresholds]
    assert tpr_at_fpr(label, score, fpr) == max(tpr for false, tpr in reached if false <= fpr)


def test_tpr_at_fpr_is_not_interpolated() -> None:
    label = np.array([0] * 10 + [1] * 4)
    score = np.array([*range(10), 8.5, 9.5, 0.5, 9.0])
    assert tpr_at_fpr(label, score, 0.05) == 0.25, "one real in ten is too many"
    assert tpr_at_fpr(label, score, 0.1) == 0.75, "the fake at 9 ties with the real there, and passes with it"
    assert tpr_at_fpr(label, -score, 0.0) == 0.0
    with pytest.raises(ValueError, match="fpr is 5"):
        tpr_at_fpr(label, score, 5)


@given(st.floats(0, 1), st.integers(1, 3000))
@settings(max_examples=300, deadline=None)
def test_tolerated_is_what_a_curve_tolerates(fpr: float, reals: int) -> None:
    rates = np.arange(reals + 1) / reals
    for rate in (fpr, float(rates[int(fpr * reals)])):
        assert tolerated(rate, reals) == np.count_nonzero(rates <= rate) - 1
    assert tolerated(0.29, 100) == 29, "though 0.29 * 100 is below 29"


@pytest.mark.parametrize(("label", "missing"), [([], "real"), ([1], "real"), ([0], "fake"), ([0, 0, 0], "fake")])
def test_a_class_is_missing(label: list[int], missing: str) -> None:
    label_array, score = np.array(label, int), np.zeros(len(label))
    for function in (roc_curve, precision_recall_curve):
        with pytest.raises(DataError, match=f"none of the {len(label)} is {missing}"):
            function(label_array, score)
    with pytest.raises(DataError, match=missing):
        tpr_at_fpr(label_array, score, 0.1)


def distance_to(curve: Curve, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of points to the nearest piece of a curve."""
    ax, ay = curve.x[:-1], curve.y[:-1]
    dx, dy = np.diff(curve.x), np.diff(curve.y)
    along = ((x[:, None] - ax) * dx + (y[:, None] - ay) * dy) / np.maximum(dx**2 + dy**2, 1e-300)
    along = along.clip(0, 1)
    return np.hypot(x[:, None] - ax - along * dx, y[:, None] - ay - along * dy).min(axis=1)


@pytest.mark.parametrize("make", [roc_curve, precision_recall_curve])
@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_thin_curves_look_the_same(make: type, shift: float) -> None:
    generator = np.random.default_rng(1)
    label = generator.integers(0, 2, 5000)
    curve = make(label, generator.normal(size=5000) + shift * label)
    thinned = thin(curve)
    assert len(thinned.x) == 200
    assert (thinned.x[0], thinned.y[0], thinned.threshold[0]) == (curve.x[0], curve.y[0], np.inf)
    assert (thinned.x[-1], thinned.y[-1], thinned.threshold[-1]) == (curve.x[-1], curve.y[-1], curve.threshold[-1])
    assert (np.diff(thinned.threshold) < 0).all()
    assert set(zip(thinned.x, thinned.y, strict=True)) <= set(zip(curve.x, curve.y, strict=True))
    assert distance_to(thinned, curve.x, curve.y).max() < 0.004, "a pixel in a drawing 250 wide"


def test_thin_keeps_corners_and_drops_straight_stretches() -> None:
    label = np.repeat([1, 0, 1, 0], 50)
    curve = roc_curve(label, np.arange(200, 0, -1.0))
    assert len(curve.x) == 201
    thinned = thin(curve)
    assert list(zip(thinned.x, thinned.y, strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert len(thin(curve, 3).x) == 3
    assert len(thin(curve, 2).x) == 2
    short = roc_curve(np.array([0, 1]), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(thin(short).x, short.x)
    with pytest.raises(ValueError, match="points is 1"):
        thin(curve, 1)


def test_one_curve_serves_several_rates() -> None:
    label, score = case(200, 3, ties=False)
    curve = roc_curve(label, score)
    rates = [tpr_on_curve(curve, fpr) for fpr in (0.01, 0.05, 0.3)]
    assert rates == [tpr_at_fpr(label, score, fpr) for fpr in (0.01, 0.05, 0.3)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


@cases
@settings(max_examples=150, deadline=None)
def test_equal_error_rate_is_the_least_of_the_larger_rates(size: int, seed: int, ties: bool) -> None:
    label, score = case(size, seed, ties)
    larger = []
    for threshold in [np.inf, *score.tolist()]:
        passed = score >= threshold
        larger.append(max(passed[label == 0].mean(), (~passed)[label == 1].mean()))
    # A rate of misses is counted here, and 1 minus a rate there.
    assert equal_error_rate(label, score) == pytest.approx(min(larger), abs=1e-15)


def test_equal_error_rate_is_where_both_rates_meet() -> None:
    assert equal_error_rate(np.array([0, 0, 0, 1, 1, 1]), np.array([1, 2, 5, 3, 6, 7])) == pytest.approx(1 / 3)
    assert equal_error_rate(np.array([0, 1]), np.array([1, 2])) == 0
    assert equal_error_rate(np.array([0, 1]), np.array([1, 1])) == 1, "a tie cannot be parted by a threshold"


@pytest.mark.parametrize("reals", [1, 7, 59, 299, 2995, 10**6])
def test_the_smallest_claim_is_the_exact_bound_of_no_error(reals: int) -> None:
    exact = binomtest(0, reals, alternative="less").proportion_ci(0.95, method="exact").high
    assert smallest_fpr(reals) == pytest.approx(exact, rel=1e-9)


def test_how_many_reals_a_claim_takes() -> None:
    for reals, fpr in ((2995, 0.001), (299, 0.01), (59, 0.05)):
        assert smallest_fpr(reals) <= fpr < smallest_fpr(reals - 1)
    with pytest.raises(ValueError, match="reals is 0"):
        smallest_fpr(0)
