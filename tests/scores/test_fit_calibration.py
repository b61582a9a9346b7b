"""Fits against SciPy's and scikit-learn's own, and what has no optimum."""

from __future__ import annotations

import numpy as np
import pytest
from calibrations import fitted, logits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from mirror_pl.calibration import METHODS
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.scores.fit_calibration import FOLDS, fit_parameters, folds

cases = given(st.integers(10, 60), st.integers(0, 10**6), st.booleans(), st.sampled_from([0.1, 1.0, 30.0]))
"""Images a class, seed, whether classes weigh equally, and the unit of the logits."""


def loss(label: NDArray[np.integer], z: NDArray[np.floating], balanced: bool) -> float:
    """The mean of -log p, each class's own where they weigh equally."""
    losses = np.array([np.logaddexp(0, -value if cls else value) for cls, value in zip(label, z, strict=True)])
    return float((losses[label == 0].mean() + losses[label == 1].mean()) / 2 if balanced else losses.mean())


@cases
@settings(max_examples=40, deadline=None)
def test_temperature_is_scipys_optimum(size: int, seed: int, balanced: bool, unit: float) -> None:
    label, logit = logits(size, seed)
    logit = logit * np.float32(unit)
    slope = fit_parameters(label, logit, "temperature", balanced=balanced)["slope"]
    x = logit.astype(float)
    found = minimize_scalar(
        lambda t: loss(label, x / np.exp(t), balanced), bracket=(np.log(unit), np.log(unit) + 1), tol=1e-12
    )
    # A minimum is known to about the root of the precision of what is minimised, 1e-8.
    assert 1 / slope == pytest.approx(np.exp(found.x), rel=1e-6)
    assert loss(label, slope * x, balanced) <= found.fun + 1e-12


@cases
@settings(max_examples=40, deadline=None)
def test_shift_is_scipys_optimum(size: int, seed: int, balanced: bool, unit: float) -> None:
    label, logit = logits(size, seed)
    x = (logit * np.float32(unit)).astype(float)
    offset = fit_parameters(label, x, "shift", balanced=balanced)["offset"]
    found = minimize_scalar(lambda b: loss(label, x + b, balanced), bounds=(offset - 5, offset + 5), method="bounded")
    assert loss(label, x + offset, balanced) <= found.fun + 1e-12
    if unit <= 1:  # else the loss is flat where no image is near
        assert offset == pytest.approx(found.x, abs=1e-3)


@given(st.integers(10, 60), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_platt_is_scikit_learns(size: int, seed: int) -> None:
    label, logit = logits(size, seed)
    found = fit_parameters(label, logit, "platt", balanced=False)
    theirs = _SigmoidCalibration().fit(logit.astype(float), label)
    # Theirs is 1 / (1 + exp(a x + b)), by a search that ends at a gradient of 1e-5 or so.
    assert (found["slope"], found["offset"]) == pytest.approx((-theirs.a_, -theirs.b_), abs=1e-3, rel=1e-3)


@given(st.integers(5, 40), st.integers(0, 10**6), st.booleans())
@settings(max_examples=20, deadline=None)
def test_platt_is_scipys_optimum_with_classes_that_weigh_equally(size: int, seed: int, separable: bool) -> None:
    label, logit = logits(size, seed, apart=9 if separable else 1.5, spread=1 if separable else 2)
    target = np.where(label == 1, (2 * size + 1) / (2 * size + 2), 1 / (size + 2))
    share = np.where(label == 1, 1 / (4 * size), 1 / (2 * size))

    def cost(at: NDArray[np.float64]) -> float:
        z = at[0] * logit.astype(float) + at[1]
        return float(np.sum(share * (target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z))))

    found = fit_parameters(label, logit, "platt")
    theirs = minimize(
        cost, np.array([0.5, 0.0]), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxfev": 4000}
    )
    assert cost(np.array([found["slope"], found["offset"]])) <= theirs.fun + 1e-12
    assert (found["slope"], found["offset"]) == pytest.approx(tuple(theirs.x), abs=1e-4)


@given(st.integers(5, 60), st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_isotonic_is_scikit_learns(size: int, seed: int, ties: bool, balanced: bool) -> None:
    label, logit = logits(size, seed, ties=ties)
    share = np.where(label == 1, 0.5, 1.0) if balanced else None
    theirs = IsotonicRegression(out_of_bounds="clip").fit(logit.astype(float), label, sample_weight=share)
    found = fit_parameters(label, logit, "isotonic", balanced=balanced)
    new = np.random.default_rng(seed).normal(0, 5, 200)
    expected = np.clip(theirs.predict(new), 1 / (3 * size + 2), 1 - 1 / (3 * size + 2))
    calibrated = np.interp(new, found["logits"], found["probabilities"])
    # Clipped at its steps and not between them, it differs where a step from 0 or to 1 begins, by the clip at most.
    np.testing.assert_allclose(calibrated, expected, atol=1 / (3 * size + 2) + 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_calibration_never_falls_and_is_applied_in_float64(method: str) -> None:
    calibration = fitted(method)
    raw = np.sort(np.random.default_rng(1).normal(0, 30, 999).astype(np.float32))
    got = calibration(raw)
    assert got.dtype == np.float32
    assert (np.diff(got) >= 0).all()
    assert np.isfinite(got).all()
    if method != "isotonic":
        exact = [np.float32(calibration.slope * float(value) + calibration.offset) for value in raw]
        np.testing.assert_array_equal(got, exact)
    odd = calibration(np.array([np.nan, np.inf, -np.inf, 3e38], np.float32))
    np.testing.assert_array_equal(np.isfinite(odd), [False, False, False, True])


def test_what_has_no_optimum_is_refused_in_words() -> None:
    label, logit = logits(20, 0)
    for method, words in (("temperature", "no temperature above 0"), ("platt", "not above 0"), ("isotonic", "a constant")):
        with pytest.raises(DataError, match=words):
            fit_parameters(label, -np.abs(logit) * np.where(label == 1, 1, -1), method)
    apart = np.where(label == 1, 3.0, -2.0) + logit * 0.01
    with pytest.raises(DataError, match="every image is decided right"):
        fit_parameters(label, apart, "temperature")
    for method in ("platt", "shift", "isotonic"):
        assert fit_parameters(label, apart, method)
    with pytest.raises(DataError, match="all logits are the same"):
        fit_parameters(label, np.zeros(60), "platt")
    with pytest.raises(DataError, match="none of the 20 is fake"):
        fit_parameters(np.zeros(20, int), logit[:20], "shift")
    with pytest.raises(ConfigError, match="there is no beta"):
        fit_parameters(label, logit, "beta")


def test_folds_are_even_in_each_class_and_the_same_every_time() -> None:
    label = np.array([0] * 13 + [1] * 22)
    found = folds(label)
    np.testing.assert_array_equal(found, folds(label))
    assert np.bincount(found[label == 0]).tolist() == [3, 3, 3, 2, 2]
    assert np.bincount(found[label == 1], minlength=FOLDS).tolist() == [5, 5, 4, 4, 4]
    with pytest.raises(DataError, match="a class has 4 images"):
        folds(label[9:])
