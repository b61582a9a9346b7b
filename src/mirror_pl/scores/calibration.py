"""Whether p_fake can be read as a probability: reliability, expected calibration error and Brier score.

Nothing here is fitted; a detector is judged as it is, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirror_pl.labels import FAKE


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: images in bins of equal width of p_fake.

    Attributes:
        edges: ``(bins + 1,)`` from 0 to 1. A bin holds its lower edge but not its upper one; the last holds both.
        count: ``(bins,)`` int64, images.
        mean_p_fake: ``(bins,)`` float64, NaN where a bin is empty.
        fraction_fake: ``(bins,)`` float64, share of fakes; NaN where a bin is empty. Calibrated: equal to `mean_p_fake`.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    mean_p_fake: NDArray[np.float64]
    fraction_fake: NDArray[np.float64]


def reliability(label: NDArray[np.integer], p_fake: NDArray[np.floating], bins: int = 15) -> Reliability:
    """Sort images into bins of p_fake.

    Args:
        label: ``(S,)``, 0 real and 1 fake; S may be 0.
        p_fake: ``(S,)`` in [0, 1].
        bins: At least 1.
    """
    # Edges are rounded to the type of p_fake: where a float32 of about 1/15 falls must not hang on rounding.
    edges = np.linspace(0, 1, bins + 1).astype(p_fake.dtype)
    position = np.searchsorted(edges[1:-1], p_fake, side="right")
    count = np.bincount(position, minlength=bins)
    occupied = np.where(count > 0, count, np.nan)
    mean_p_fake = np.bincount(position, weights=p_fake.astype(np.float64), minlength=bins) / occupied
    fraction_fake = np.bincount(position[label == FAKE], minlength=bins) / occupied
    return Reliability(edges.astype(np.float64), count, mean_p_fake, fraction_fake)


def expected_calibration_error(label: NDArray[np.integer], p_fake: NDArray[np.floating], bins: int = 15) -> float:
    """Expected calibration error: sum over bins of share of images x |mean p_fake - fraction fake|. 0 is best, 1 worst.

    That of Naeini et al. (2015), for the probability of the positive class. It equals torchmetrics' BinaryCalibrationError
    with norm "l1", but for images whose p_fake is exactly 1, as float32 makes it from a logit of 17 or so: torchmetrics
    puts them in a bin of their own behind the last, here they are in the last, as in the reliability diagram.

    Args:
        label: ``(S,)``, 0 real and 1 fake, S at least 1.
        p_fake: ``(S,)`` in [0, 1].
        bins: At least 1; with more bins, noise counts as error.
    """
    diagram = reliability(label, p_fake, bins)
    gap = np.abs(diagram.mean_p_fake - diagram.fraction_fake)
    return float(np.nansum(gap * diagram.count) / len(label))


def brier_score(label: NDArray[np.integer], p_fake: NDArray[np.floating]) -> float:
    """Mean of (p_fake - label)^2 (Brier, 1950). 0 is perfect, 0.25 always saying one half, 1 sure and always wrong.

    Args:
        label: ``(S,)``, 0 real and 1 fake, S at least 1.
        p_fake: ``(S,)`` in [0, 1].
    """
    return float(np.mean(np.square(p_fake.astype(np.float64) - (label == FAKE))))
