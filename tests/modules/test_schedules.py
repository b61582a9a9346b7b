"""Learning rates: the formulas written down once more, and the points that everybody checks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mirror_pl.errors import ConfigError
from mirror_pl.modules.objectives import CosineByEpoch, WarmUpThenCosine


def rates(schedule: Any, steps: int, *, lr: float = 1.0, per_epoch: int = 10, **settings: float) -> list[float]:
    """Learning rates of all steps and of the one after the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    made = schedule(optimizer, steps=steps, steps_per_epoch=per_epoch, **settings)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_a_half_cosine_over_the_epochs() -> None:
    factors = rates(CosineByEpoch, 12, per_epoch=3)
    assert factors[:3] == [1.0, 1.0, 1.0], "constant within an epoch"
    assert factors[6] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0)
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(("epochs", "warm_up", "last"), [(5, 1.0, 0.01), (3, 0.5, 0.0), (4, 0.0, 0.1), (2, 2.0, 0.01)])
def test_warm_up_and_cosine(epochs: int, warm_up: float, last: float) -> None:
    """lr(e) = e / w below w, then last + (1 - last) / 2 (1 + cos(pi (e - w) / (E - w))), with e = step / steps per epoch."""
    found = rates(WarmUpThenCosine, epochs * 10, warm_up_epochs=warm_up, last_lr=last)
    for step, rate in enumerate(found):
        epoch = step / 10
        if epoch < warm_up:
            expected = epoch / warm_up
        elif epochs == warm_up:
            expected = 1.0
        else:
            expected = last + (1 - last) / 2 * (1 + math.cos(math.pi * (epoch - warm_up) / (epochs - warm_up)))
        assert rate == pytest.approx(expected, abs=1e-12)


def test_where_it_begins_peaks_and_ends() -> None:
    found = rates(WarmUpThenCosine, 50, lr=1e-3, last_lr=1e-5)
    assert (found[0], found[10]) == (0, 1e-3)
    assert found[50] == pytest.approx(1e-5)
    assert max(rates(WarmUpThenCosine, 50, lr=1e-7, last_lr=1e-5)) == 1e-7, "where it ends, at most"


@pytest.mark.parametrize("settings", [{"warm_up_epochs": -1.0}, {"last_lr": -1.0}, {"last_lr": math.nan}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"scheduler.{next(iter(settings))} must be 0 or more"):
        rates(WarmUpThenCosine, 3, **settings)
