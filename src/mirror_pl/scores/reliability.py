"""Whether p_fake can be read as a probability: reliability diagram, calibration errors, Brier score, and log-likelihood.

Nothing here is fitted; a detector is judged as it is, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

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
        low: ``(bins,)`` float64, lower end of the 95 % interval of `fraction_fake`; NaN where a bin is empty.
        high: ``(bins,)`` float64, upper end.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    mean_p_fake: NDArray[np.float64]
    fraction_fake: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def reliability(label: NDArray[np.integer], p_fake: NDArray[np.floating], bins: int = 15) -> Reliability:
    """Sort images into bins of p_fake.

    Intervals are those of Wilson (1927), at 95 %, of the share of fakes among a bin's images.

    Args:
        label: ``(S,)``, 0 real and 1 fake; S may be 0.
        p_fake: ``(S,)`` in [0, 1].
        bins: At least 1.
    """
    # Edges are rounded to the type of p_fake: where a float32 of about 1/15 falls must not hang on rounding.
    edges = np.linspace(0, 1, bins + 1).astype(p_fake.dtype)
    position = np.searchsorted(edges[1:-1], p_fake, side="right")
    count, mean_p_fake, fakes = _in_bins(label, p_fake, position, bins)
    low, high = proportion_interval(fakes, count)
    return Reliability(edges.astype(np.float64), count, mean_p_fake, fakes / _occupied(count), low, high)


def proportion_interval(
    found: NDArray[np.integer], count: NDArray[np.int64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the score interval of a proportion (Wilson, 1927); NaN where nothing was counted.

    Args:
        found: ``(N,)``, from 0 to `count`.
        count: ``(N,)``.
        level: Between 0 and 1.
    """
    of, z2 = _occupied(count), NormalDist().inv_cdf(0.5 + level / 2) ** 2
    share = found / of
    middle, half = share + z2 / (2 * of), np.sqrt(z2 * (share * (1 - share) + z2 / (4 * of)) / of)
    low, high = (np.clip((middle + way * half) / (1 + z2 / of), 0, 1) for way in (-1, 1))
    return np.minimum(low, share), np.maximum(high, share)  # at 0 and 1 they are the same, but for rounding


def expected_calibration_error(
    label: NDArray[np.integer], p_fake: NDArray[np.floating], bins: int = 15, *, equal_mass: bool = False
) -> float:
    """Expected calibration error: sum over bins of share of images x |mean p_fake - fraction fake|. 0 is best, 1 worst.

    With bins of equal width, that of Naeini et al. (2015), for the probability of the positive class. It equals
    torchmetrics' BinaryCalibrationError with norm "l1", but for images whose p_fake is exactly 1, as float32 makes it from a
    logit of 17 or so: torchmetrics puts them in a bin of their own behind the last, here they are in the last, as in the
    reliability diagram.

    With bins of equal mass, each holds 1 / `bins` of the images, by rank of p_fake: a detector that is nearly always sure
    fills the two outermost bins of equal width, and what it says within them is not looked at. Images of equal p_fake stay
    together, in the bin that the first of them falls into.

    Args:
        label: ``(S,)``, 0 real and 1 fake, S at least 1.
        p_fake: ``(S,)`` in [0, 1].
        bins: At least 1; with more bins, noise counts as error.
        equal_mass: Whether bins hold equally many images, instead of being equally wide.
    """
    if equal_mass:
        _, which, number = np.unique(p_fake, return_inverse=True, return_counts=True)
        before = np.cumsum(number) - number
        position = (before * bins // len(label))[which]
        count, mean_p_fake, fakes = _in_bins(label, p_fake, position, bins)
        gap = np.abs(mean_p_fake - fakes / _occupied(count))
    else:
        diagram = reliability(label, p_fake, bins)
        count, gap = diagram.count, np.abs(diagram.mean_p_fake - diagram.fraction_fake)
    return float(np.nansum(gap * count) / len(label))


def brier_score(label: NDArray[np.integer], p_fake: NDArray[np.floating]) -> float:
    """Mean of (p_fake - label)^2 (Brier, 1950). 0 is perfect, 0.25 always saying one half, 1 sure and always wrong.

    Args:
        label: ``(S,)``, 0 real and 1 fake, S at least 1.
        p_fake: ``(S,)`` in [0, 1].
    """
    return float(np.mean(np.square(p_fake.astype(np.float64) - (label == FAKE))))


def negative_log_likelihood(label: NDArray[np.integer], logit: NDArray[np.floating]) -> float:
    """Mean of -log of the probability given to the true class, in nats. 0 is perfect, log 2 = 0.693 saying one half.

    From logits, so that one surely wrong image, whose probability float32 rounds to 0, costs what it costs and not infinity.

    Args:
        label: ``(S,)``, 0 real and 1 fake, S at least 1.
        logit: ``(S,)``, finite.
    """
    return float(np.mean(log_losses(label, logit)))


def log_losses(label: NDArray[np.integer], logit: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ``(S,)``, each image's part of `negative_log_likelihood`."""
    return np.logaddexp(0.0, np.where(label == FAKE, -1.0, 1.0) * logit.astype(np.float64))


def _in_bins(
    label: NDArray[np.integer], p_fake: NDArray[np.floating], position: NDArray[np.integer], bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return each bin's images, mean p_fake (NaN where it is empty) and fakes."""
    count = np.bincount(position, minlength=bins)
    mean_p_fake = np.bincount(position, weights=p_fake.astype(np.float64), minlength=bins) / _occupied(count)
    return count, mean_p_fake, np.bincount(position[label == FAKE], minlength=bins)


def _occupied(count: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(count > 0, count, np.nan)
