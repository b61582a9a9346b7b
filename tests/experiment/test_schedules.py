"""Learning rates: the formulas written down once more, and the points that everybody checks."""

from __future__ import annotations

import math

import pytest

from mirror_pl.experiment.schedules import cosine_by_epoch, warm_up_then_cosine


def test_a_half_cosine_over_the_epochs() -> None:
    factors = [cosine_by_epoch(step, 3, 4) for step in range(13)]
    assert factors[:3] == [1.0, 1.0, 1.0], "constant within an epoch"
    assert factors[6] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0)
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(("epochs", "warm_up", "last"), [(5, 1.0, 0.01), (3, 0.5, 0.0), (4, 0.0, 0.1), (2, 2.0, 0.01)])
def test_warm_up_and_cosine(epochs: int, warm_up: float, last: float) -> None:
    """lr(e) = e / w below w, then last + (1 - last) / 2 (1 + cos(pi (e - w) / (E - w))), with e = step / steps an epoch."""
    for step in range(epochs * 10 + 1):
        epoch = step / 10
        if epoch < warm_up:
            expected = epoch / warm_up
        elif epochs == warm_up:
            expected = 1.0
        else:
            expected = last + (1 - last) / 2 * (1 + math.cos(math.pi * (epoch - warm_up) / (epochs - warm_up)))
        assert warm_up_then_cosine(step, 10, epochs, warm_up, last) == pytest.approx(expected, abs=1e-12)


def test_where_it_begins_peaks_and_ends() -> None:
    assert warm_up_then_cosine(0, 10, 5, 1.0, 0.01) == 0
    assert warm_up_then_cosine(10, 10, 5, 1.0, 0.01) == 1
    assert warm_up_then_cosine(50, 10, 5, 1.0, 0.01) == pytest.approx(0.01)
    assert warm_up_then_cosine(60, 10, 5, 1.0, 0.01) == pytest.approx(0.01), "and stays there"
