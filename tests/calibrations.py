"""Calibrations for tests: fitted on logits drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirror_pl.calibration import Calibration, FittedOn, path_digests
from mirror_pl.scores.conformal import fit_quantiles
from mirror_pl.scores.fit_calibration import fit_parameters


def logits(
    size: int, seed: int, apart: float = 1.5, spread: float = 2.0, ties: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`size` reals and twice as many fakes whose logits overlap."""
    generator = np.random.default_rng(seed)
    label = np.repeat([0, 1, 1], size).astype(np.int8)
    logit = generator.normal(np.where(label == 1, apart, -apart), spread).astype(np.float32)
    return label, logit.round() if ties else logit


def fitted(method: str = "temperature", size: int = 60, seed: int = 0, **origin: Any) -> Calibration:
    label, logit = logits(size, seed)
    values: dict[str, Any] = {
        "benchmark": "wildrf", "subsets": ("a",), "reals": size, "fakes": 2 * size, "detector": "mirror/tiny",
        "checkpoint": "0" * 64, "protocol": {"crops": "center"}, "data": "f" * 64,
        "images": path_digests([f"set/a/{i}.png" for i in range(3 * size)], "wildrf", "/data"),
    }  # fmt: skip
    return Calibration(
        method, fit_quantiles(label, logit), FittedOn(**{**values, **origin}), **fit_parameters(label, logit, method)
    )
