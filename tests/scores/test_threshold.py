"""The fitted threshold against trying all cuts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from mirror_pl.errors import DataError
from mirror_pl.scores import bal_acc_at, fit_threshold
from mirror_pl.scores.metrics import subset_metrics


@given(st.integers(0, 60), st.integers(0, 10**6), st.booleans(), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_no_cut_is_better_and_none_as_good_is_nearer_to_0(size: int, seed: int, ties: bool, dtype: type) -> None:
    generator = np.random.default_rng(seed)
    label = np.append([0, 1], generator.integers(0, 2, size))
    logit = generator.normal(size=size + 2) * 3 + generator.choice([-2, 2]) * label + generator.choice([-5, 0, 5])
    logit = (logit.round() if ties else logit).astype(dtype)
    fitted = fit_threshold(label, logit)
    assert (fitted.reals, fitted.fakes) == ((label == 0).sum(), (label == 1).sum())

    scores = np.unique(logit).astype(np.float64)
    cuts = np.concatenate([scores[:1] - 1e-6, (scores[1:] + scores[:-1]) / 2, scores[-1:] + 1e-6])
    reached = np.array([balanced_accuracy_score(label, logit > cut) for cut in cuts])
    assert fitted.bal_acc == pytest.approx(reached.max(), abs=1e-12)
    best = np.abs(cuts[reached > reached.max() - 1e-12]).min()
    assert abs(fitted.logit) == pytest.approx(best, abs=1e-5)
    # Applied to float32 or float64, by hand or by `bal_acc_at`, it gives what it promises.
    assert bal_acc_at(label, logit, fitted.logit) == pytest.approx(fitted.bal_acc, abs=1e-12)
    assert balanced_accuracy_score(label, logit > fitted.logit) == pytest.approx(fitted.bal_acc, abs=1e-12)


def fit(reals: list[float], fakes: list[float], dtype: type = np.float32) -> tuple[float, float]:
    label = np.repeat([0, 1], [len(reals), len(fakes)])
    fitted = fit_threshold(label, np.array([*reals, *fakes], dtype))
    return fitted.logit, fitted.bal_acc


def test_examples() -> None:
    assert fit([1, 2], [4, 5]) == (3, 1)
    assert fit([-4, -2], [2, 4, 6]) == (0, 1)
    assert fit([0, 3, 3], [2, 5]) == (4, 0.75), "1 would find both fakes and lose two of three reals"
    assert fit([-6, 1], [-5, 2]) == (1.5, 0.75), "so does -5.5, farther from 0"
    assert fit([-2, 5], [-1, 6]) == (-1.5, 0.75), "so does 5.5"


def test_a_detector_the_wrong_way_round_gets_a_cut_beyond_the_end_nearest_to_0() -> None:
    logit, bal_acc = fit([9, 10], [1, 2])
    assert bal_acc == 0.5
    assert 1 - 1e-6 < logit < 1, "all are called fake"
    logit, bal_acc = fit([-1, -2], [-9, -10])
    assert bal_acc == 0.5
    assert -1 < logit < -1 + 1e-6, "all are called real"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbouring_numbers_and_the_largest_are_told_apart(dtype: type) -> None:
    one = np.ones((), dtype)
    for low, high in [
        (one, np.nextafter(one, dtype(2))),
        (np.finfo(dtype).min, np.finfo(dtype).max),
        (-0.0, np.nextafter(dtype(0), one)),
    ]:
        logit, bal_acc = fit([low], [high], dtype)
        assert bal_acc == 1
        assert low <= logit < high
        assert np.isfinite(logit)


def test_one_score_for_all() -> None:
    label, logit = np.array([0, 1, 1]), np.zeros(3, np.float32)
    fitted = fit_threshold(label, logit)
    assert fitted.bal_acc == 0.5
    assert 0 < abs(fitted.logit) < 1e-30
    largest = np.full(3, np.finfo(np.float32).max)
    assert np.isfinite(fit_threshold(label, largest).logit)


@pytest.mark.parametrize(("label", "missing"), [([], "real"), ([1, 1], "real"), ([0], "fake")])
def test_a_class_is_missing(label: list[int], missing: str) -> None:
    logit: NDArray[np.float32] = np.zeros(len(label), np.float32)
    with pytest.raises(DataError, match=f"a fitted threshold needs real and fake.* {len(label)} is {missing}"):
        fit_threshold(np.array(label, int), logit)
    assert bal_acc_at(np.array(label, int), logit, 0.0) is None


@given(st.integers(1, 50), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_at_0_it_is_the_detectors_own(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    label, logit = generator.integers(0, 2, size), generator.normal(size=size).astype(np.float32)
    assert bal_acc_at(label, logit, 0.0) == subset_metrics(label, logit, logit)["bal_acc"]
