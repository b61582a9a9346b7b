"""Abstention by counting, and the risk-coverage curve by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from calibrations import logits
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror_pl.errors import DataError
from mirror_pl.scores.selective import Answers, abstention_of, area_under, risk_coverage_curve


@given(st.integers(1, 30), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_curve_is_that_of_all_levels_of_sureness(size: int, seed: int, ties: bool) -> None:
    label, logit = logits(size, seed, ties=ties)
    expected = []
    for level in sorted({abs(float(value)) for value in logit}, reverse=True):
        decided = [(cls, value) for cls, value in zip(label, logit, strict=True) if abs(value) >= level]
        shares, wrong = [], []
        for cls in (0, 1):
            here = [value for one, value in decided if one == cls]
            total = np.count_nonzero(label == cls)
            shares.append(len(here) / total)
            wrong.append(sum((value > 0) != (cls == 1) for value in here) / total)
        expected.append((np.mean(shares), np.mean(wrong) / np.mean(shares), level))
    curve = risk_coverage_curve(label, logit)
    # Shares are added one by one here, and counted there.
    np.testing.assert_allclose(np.stack([curve.x, curve.y, curve.threshold], axis=1), expected, atol=1e-12)
    wrong_of_class = [((logit > 0) != (label == 1))[label == cls].mean() for cls in (0, 1)]
    assert curve.y[-1] == pytest.approx(np.mean(wrong_of_class))
    area, before = 0.0, 0.0
    for coverage, error, _ in expected:
        area, before = area + (coverage - before) * error, coverage
    assert area_under(curve) == pytest.approx(area, abs=1e-12)


def test_a_detector_that_knows_when_it_errs_has_a_small_area() -> None:
    label = np.array([0, 1] * 50)
    logit = np.where(label == 1, 1.0, -1.0) * np.linspace(0.1, 5, 100)
    errs_when_unsure, errs_when_sure = logit.copy(), logit.copy()
    errs_when_unsure[:10] *= -1
    errs_when_sure[-10:] *= -1
    assert area_under(risk_coverage_curve(label, logit)) == 0
    assert area_under(risk_coverage_curve(label, errs_when_unsure)) == pytest.approx(0.005, abs=2e-3)
    assert area_under(risk_coverage_curve(label, errs_when_sure)) > 0.3
    with pytest.raises(DataError, match="a risk-coverage curve needs real and fake"):
        risk_coverage_curve(label[::2], logit[::2])


def test_answers_are_counted_in_each_class() -> None:
    found = abstention_of(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 2, 1, 2], np.int8), 0.1)
    assert found.classes == {"real": Answers(2, 2, 1), "fake": Answers(1, 1, 0)}
    assert (found.classes["real"].wrong_of_all, found.classes["real"].wrong_of_decided) == (0.25, 0.5)
    assert found.to_dict()["fake"] == {"decided": 1, "unsure": 1, "wrong": 0, "wrong_of_all": 0.0, "wrong_of_decided": 0.0}
    nothing = abstention_of(np.array([1]), np.array([2], np.int8), 0.1).classes
    assert (nothing["real"].wrong_of_all, nothing["fake"].wrong_of_decided) == (None, None)
