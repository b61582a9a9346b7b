"""Calibration figures against torchmetrics, scikit-learn, SciPy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error

from mirror_pl.scores import brier_score, expected_calibration_error, negative_log_likelihood, reliability


def torchmetrics_error(label: NDArray[np.integer], p_fake: NDArray[np.float32], bins: int) -> float:
    return float(binary_calibration_error(torch.from_numpy(p_fake), torch.from_numpy(label), n_bins=bins, norm="l1"))


def case(size: int, seed: int, power: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, size)
    return label, (generator.random(size) ** power).astype(np.float32).clip(0, np.float32(1 - 2**-20))


@given(st.integers(1, 80), st.integers(0, 10**6), st.sampled_from([0.2, 1.0, 5.0]), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_equal_to_torchmetrics_and_scikit_learn(size: int, seed: int, power: float, bins: int) -> None:
    label, p_fake = case(size, seed, power)
    # torchmetrics adds up in float32.
    assert expected_calibration_error(label, p_fake, bins) == pytest.approx(
        torchmetrics_error(label, p_fake, bins), abs=1e-6
    )
    assert brier_score(label, p_fake) == pytest.approx(brier_score_loss(label, p_fake.astype(float), pos_label=1), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 16])
def test_edges_belong_to_the_bin_above_as_in_torchmetrics(bins: int) -> None:
    p_fake = (np.arange(16) / 16).astype(np.float32)
    diagram = reliability(np.ones(16, int), p_fake, bins)
    assert diagram.count.tolist() == [16 // bins] * bins
    np.testing.assert_array_equal(diagram.edges, np.arange(bins + 1) / bins)
    label = np.arange(16) % 3 % 2
    assert expected_calibration_error(label, p_fake, bins) == pytest.approx(
        torchmetrics_error(label, p_fake, bins), abs=1e-6
    )


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    """The one place where torchmetrics does otherwise: it opens another bin for it."""
    label, p_fake = np.array([1, 0]), np.array([0.95, 1.0], np.float32)
    assert reliability(label, p_fake, 10).count.tolist() == [0] * 9 + [2]
    assert expected_calibration_error(label, p_fake, 10) == pytest.approx(0.975 - 0.5, abs=1e-7)
    assert torchmetrics_error(label, p_fake, 10) == pytest.approx((0.05 + 1) / 2, abs=1e-6)


def test_the_error_is_that_of_the_diagram() -> None:
    label, p_fake = case(500, 0, 1.0)
    diagram = reliability(label, p_fake)
    assert diagram.count.sum() == 500
    assert (diagram.mean_p_fake >= diagram.edges[:-1]).all()
    assert (diagram.mean_p_fake <= diagram.edges[1:]).all()
    for i in range(15):
        here = (p_fake >= diagram.edges[i]) & (p_fake < diagram.edges[i + 1])
        assert diagram.count[i] == here.sum() > 0
        assert diagram.fraction_fake[i] == pytest.approx(label[here].mean())
    gaps = np.abs(diagram.mean_p_fake - diagram.fraction_fake) * diagram.count / 500
    assert expected_calibration_error(label, p_fake) == pytest.approx(gaps.sum())
    assert gaps.sum() > 0.1


def test_extremes() -> None:
    label = np.array([0, 1])
    right, wrong = np.array([0, 1], np.float32), np.array([1, 0], np.float32)
    assert expected_calibration_error(label, right) == brier_score(label, right) == 0
    assert expected_calibration_error(label, wrong) == brier_score(label, wrong) == 1
    half = np.full(2, 0.5, np.float32)
    assert expected_calibration_error(label, half) == 0
    assert brier_score(label, half) == 0.25
    empty = reliability(np.empty(0, int), np.empty(0, np.float32))
    assert empty.count.tolist() == [0] * 15
    assert np.isnan(empty.mean_p_fake).all()
    assert np.isnan(empty.fraction_fake).all()


def error_by_loops(label: NDArray[np.integer], p_fake: NDArray[np.floating], bins: int) -> float:
    """Bins of equal mass: the k-th of n images, by score, is in bin k * bins // n; one that ties, with the first of its score."""
    ranked = sorted(range(len(label)), key=lambda i: p_fake[i])
    held: dict[int, list[int]] = {}
    bin_of_score: dict[float, int] = {}
    for rank, image in enumerate(ranked):
        chosen = bin_of_score.setdefault(float(p_fake[image]), rank * bins // len(label))
        held.setdefault(chosen, []).append(image)
    return sum(abs(sum(float(p_fake[i]) - label[i] for i in images)) for images in held.values()) / len(label)


@given(st.integers(1, 80), st.integers(0, 10**6), st.booleans(), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_equal_mass(size: int, seed: int, ties: bool, bins: int) -> None:
    label, p_fake = case(size, seed, 1.0)
    if ties:
        p_fake = p_fake.round(1)
    # Sums of at most 80 numbers below 1, in float64 in another order.
    expected = error_by_loops(label, p_fake, bins)
    assert expected_calibration_error(label, p_fake, bins, equal_mass=True) == pytest.approx(expected, abs=1e-12)


def test_equal_mass_sees_what_equal_width_does_not() -> None:
    """All scores in one bin of equal width, where errors both ways cancel."""
    p_fake = np.linspace(0.94, 0.99, 150).astype(np.float32)
    label = (np.arange(150) < 145).astype(int)  # the surest are the wrong ones
    assert expected_calibration_error(label, p_fake) < 0.01
    assert expected_calibration_error(label, p_fake, equal_mass=True) > 0.06


@given(st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_intervals_are_those_of_scipy(size: int, seed: int) -> None:
    label, p_fake = case(size, seed, 1.0)
    diagram = reliability(label, p_fake, 5)
    for count, fraction, low, high in zip(diagram.count, diagram.fraction_fake, diagram.low, diagram.high, strict=True):
        if not count:
            assert np.isnan([fraction, low, high]).all()
            continue
        expected = binomtest(round(fraction * count), int(count)).proportion_ci(0.95, method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert low <= fraction <= high


@given(st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_log_likelihood_equal_to_scikit_learn(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    label, logit = generator.integers(0, 2, size), generator.normal(0, 5, size).astype(np.float32)
    p_fake = 1 / (1 + np.exp(-logit.astype(float)))
    # scikit-learn takes probabilities, whose rounding next to 1 its logarithm magnifies.
    assert negative_log_likelihood(label, logit) == pytest.approx(log_loss(label, p_fake, labels=[0, 1]), rel=1e-9)


def test_log_likelihood_is_finite_where_probabilities_are_not_enough() -> None:
    logit = np.array([-300.0, 900.0], np.float32)
    assert negative_log_likelihood(np.array([1, 1]), logit) == 150
    assert negative_log_likelihood(np.array([0, 1]), logit) == pytest.approx(np.exp(-300.0) / 2, rel=1e-12)
