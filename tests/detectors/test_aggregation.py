"""Scores of crops become one: against numpy, and exactly the crop's own where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirror_pl.detectors import CropPolicy
from mirror_pl.errors import ConfigError

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=25)


def plain(values: np.ndarray, aggregate: str, fraction: float) -> float:
    ordered = np.sort(values)[::-1]
    kept = next(k for k in range(1, len(values) + 1) if k >= fraction * len(values) - 1e-9)
    return {
        "mean": float(values.mean()), "median": float(np.median(values)), "max": float(ordered[0]),
        "topk": float(ordered[:kept].mean()),
    }[aggregate]  # fmt: skip


@given(LOGITS, st.sampled_from(["mean", "median", "topk", "max"]), st.sampled_from(["logit", "score"]))
def test_against_numpy(logits: list[float], aggregate: str, of: str) -> None:
    logit, p_fake = CropPolicy("center", aggregate, of)(torch.tensor([logits]))
    values = np.array(logits, np.float64)
    sigmoid = 1 / (1 + np.exp(-values))
    expected = plain(values if of == "logit" else sigmoid, aggregate, 1 / 3)
    score = 1 / (1 + math.exp(-expected)) if of == "logit" else expected
    assert float(p_fake) == pytest.approx(score, abs=1e-6)
    assert float(logit) == pytest.approx(
        expected if of == "logit" else math.log(expected / (1 - expected)), rel=1e-4, abs=1e-4
    )
    assert logit.dtype == p_fake.dtype == torch.float32


def test_a_single_crop_is_taken_as_it_is() -> None:
    logits = torch.randn(50, 1) * 20
    for aggregate in ("mean", "median", "topk", "max"):
        for of in ("logit", "score"):
            logit, p_fake = CropPolicy("center", aggregate, of)(logits)
            assert torch.equal(logit, logits[:, 0])
            assert torch.equal(p_fake, logits[:, 0].sigmoid())


def test_a_third_is_rounded_up() -> None:
    values = torch.arange(9.0)[None]
    assert float(CropPolicy(aggregate="topk")(values)[0]) == 7  # of 6, 7 and 8
    assert float(CropPolicy(aggregate="topk")(torch.arange(5.0)[None])[0]) == 3.5  # of 3 and 4
    assert float(CropPolicy(aggregate="topk", top_fraction=1)(values)[0]) == 4


def test_a_crop_without_a_score_is_not_hidden() -> None:
    values = torch.tensor([[1.0, math.nan, 2.0]])
    for aggregate in ("mean", "median", "topk", "max"):
        assert CropPolicy(aggregate=aggregate)(values)[0].isnan().all(), aggregate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crops": "fiv"}, "Did you mean five"),
        ({"aggregate": "men"}, "Did you mean mean"),
        ({"of": "p_fake"}, "logit, score"),
        ({"top_fraction": 0}, "above 0"),
        ({"top_fraction": 1.1}, "at most 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CropPolicy(**settings)  # type: ignore[arg-type]
