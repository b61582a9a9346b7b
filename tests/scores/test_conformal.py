"""Conformal bands: their quantiles by hand, their coverage by simulation, and what they refuse."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mirror_pl.abstention import RATES, UNSURE, Band
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.labels import FAKE, REAL
from mirror_pl.scores.conformal import fit_quantiles


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_quantiles_are_order_statistics(reals: int, fakes: int, seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    label = generator.permutation(np.repeat([0, 1], [reals, fakes]))
    logit = generator.normal(size=reals + fakes).astype(np.float32)
    logit = logit.round() if ties else logit
    found = fit_quantiles(label, logit)
    of_reals, of_fakes = sorted(logit[label == 0].tolist()), sorted(logit[label == 1].tolist())
    for place in range(RATES):
        rate = Fraction(place + 1, 1000)
        rank = ceil((reals + 1) * (1 - rate))
        assert found.highest_real[place] == (of_reals[rank - 1] if rank <= reals else None)
        rank = floor((fakes + 1) * rate)
        assert found.lowest_fake[place] == (of_fakes[rank - 1] if rank else None)


def errors(
    draw: NDArray[np.float64], fitted: tuple[int, int], apart: float, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Fit a band on one set and judge it on 2 x 1000 others, again and again.

    Returns:
        How often a real and a fake were left out of the answer; how often one was given the wrong one; share of unsure.
    """
    left_out, wrong, unsure = [], [], []
    reals, fakes = fitted
    for numbers in draw:
        label = np.repeat([0, 1, 0, 1], [reals, fakes, 1000, 1000])
        logit = numbers + label * apart - 0.3
        known = reals + fakes
        band = fit_quantiles(label[:known], logit[:known]).band(rate)
        new, cls = logit[known:], label[known:]
        verdict = band.verdicts(new, new > 0)
        contained = np.where(cls == 0, new <= band.highest_real, new >= band.lowest_fake)
        left_out.append([1 - contained[cls == k].mean() for k in (0, 1)])
        wrong.append([((verdict != cls) & (verdict != UNSURE))[cls == k].mean() for k in (0, 1)])
        unsure.append((verdict == UNSURE).mean())
    return np.mean(left_out, axis=0), np.mean(wrong, axis=0), float(np.mean(unsure))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("fitted", [(99, 399), (250, 61)])
def test_coverage_is_as_stated(rate: float, fitted: tuple[int, int]) -> None:
    """Within 2 points, in each class, whatever their shares: 400 sets, whose mean is known to 0.3 points or better."""
    draw = np.random.default_rng(0).standard_t(4, size=(400, sum(fitted) + 2000))
    left_out, wrong, unsure = errors(draw, fitted, 1.5, rate)
    assert (np.abs(left_out - rate) < 0.02).all(), left_out
    # Exactly floor((n + 1) rate) / (n + 1) on average, which is no more than the rate.
    exact = [floor((n + 1) * Fraction(str(rate))) / (n + 1) for n in fitted]
    np.testing.assert_allclose(left_out, exact, atol=0.01)
    assert (wrong <= left_out + 1e-12).all(), "with a band, whoever is left out is told the wrong class"
    assert 0.05 < unsure < 0.9


def test_classes_far_apart_need_no_band_and_keep_their_error_rates() -> None:
    draw = np.random.default_rng(1).standard_normal((300, 200 + 2000))
    _, wrong, unsure = errors(draw, (100, 100), 4.0, 0.1)
    assert unsure == 0
    assert (wrong < 0.1).all()


def test_the_gap_is_cut_by_the_detectors_own_decision() -> None:
    gap = Band(highest_real=-1.0, lowest_fake=2.0)
    logit = np.array([-3, -1, -0.5, 0.5, 1.9, 2, 3], np.float32)
    assert gap.verdicts(logit, logit > 0).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert gap.verdicts(logit, logit > 2.5).tolist() == [0, 0, 0, 0, 0, 1, 1], "clipped into the gap from above"
    assert gap.verdicts(logit, logit > -2.5).tolist() == [0, 0, 1, 1, 1, 1, 1], "and from below"
    band = Band(highest_real=2.0, lowest_fake=-1.0)
    assert band.verdicts(logit, logit > 0).tolist() == [REAL, *[UNSURE] * 5, FAKE], "the ends may be both"


def test_a_band_needs_enough_images() -> None:
    label, logit = np.repeat([0, 1], [99, 9]), np.arange(108, dtype=np.float32)
    found = fit_quantiles(label, logit)
    assert found.band(0.1) == Band(89.0, 99.0), "the 90th of 99 reals, and the lowest of 9 fakes"
    with pytest.raises(ConfigError, match=r"abstain=0.01 needs at least 99 fakes in the set .* has 9;"):
        found.band(0.01)
    with pytest.raises(ConfigError, match=r"abstain=0.001 needs at least 999 reals in the set .* has 99;"):
        found.band(0.001)
    assert found.band(0.1009) == found.band(0.1), "rounded down"
    for rate in (0.0, 0.0009, 0.51, float("nan")):
        with pytest.raises(ConfigError, match=r"abstain must be from 0\.001 to 0\.5"):
            found.band(rate)
    with pytest.raises(DataError, match="none of the 9 is fake"):
        fit_quantiles(np.zeros(9, int), logit[:9])
