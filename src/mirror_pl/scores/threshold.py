"""A threshold on the logit that suits a named set of images, to be judged on others.

Fitted and judged on the same images it flatters the detector; which set it was fitted on must be said wherever it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirror_pl.labels import FAKE, REAL
from mirror_pl.scores.curves import require_both_classes


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold, and what it reached on the images that it was fitted on.

    Attributes:
        logit: An image is decided fake if its logit is above this. Finite; the detector's own threshold is 0.
        bal_acc: Balanced accuracy in [0.5, 1] on the images fitted on; that on others is lower on average.
        reals: Real images fitted on.
        fakes: Fake images fitted on.
    """

    logit: float
    bal_acc: float
    reals: int
    fakes: int


def fit_threshold(label: NDArray[np.integer], logit: NDArray[np.floating]) -> FittedThreshold:
    """Find the threshold with the largest balanced accuracy over all cuts between these scores, and beyond their ends.

    A threshold lies midway between the scores on either side, rounded to their type, so that a comparison with scores of
    that type is exact; beyond an end, it is the next number. Of equally good cuts, the one nearest to 0 is taken.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        logit: ``(S,)``, finite.

    Raises:
        DataError: If a class has no image.
    """
    require_both_classes(label, "a fitted threshold")
    scores, position = np.unique(logit, return_inverse=True)
    fakes = np.bincount(position[label == FAKE], minlength=len(scores))
    reals = np.bincount(position[label == REAL], minlength=len(scores))
    num_reals, num_fakes = int(reals.sum()), int(fakes.sum())

    # A cut has the first 0, 1, ... scores below it. Twice the balanced accuracy, times both counts, is an integer: ties are
    # ties, whatever a division would round.
    real_right = np.append(0, np.cumsum(reals))
    fake_right = num_fakes - np.append(0, np.cumsum(fakes))
    right = real_right * num_fakes + fake_right * num_reals
    cuts = _cuts(scores)
    best = np.flatnonzero(right == right.max())
    chosen = best[np.abs(cuts[best]).argmin()]
    return FittedThreshold(float(cuts[chosen]), float(right[chosen] / (2 * num_reals * num_fakes)), num_reals, num_fakes)


def bal_acc_at(label: NDArray[np.integer], logit: NDArray[np.floating], threshold: float) -> float | None:
    """Balanced accuracy in [0, 1] if logits above `threshold` are decided fake; None if a class has no image.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        logit: ``(S,)``.
        threshold: 0 gives the detector's own decision.
    """
    reals, fakes = label == REAL, label == FAKE
    if not reals.any() or not fakes.any():
        return None
    # As float64: a Python number would be rounded to float32 to be compared with float32 logits.
    decided_fake = logit > np.float64(threshold)
    return float((np.mean(~decided_fake[reals]) + np.mean(decided_fake[fakes])) / 2)


def _cuts(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``(D + 1,)`` finite thresholds around `scores` ``(D,)``, distinct and rising: below, between and above them."""
    lower, upper = scores[:-1], scores[1:]
    # Halved before they are added, for the sum may overflow.
    middle = lower / 2 + upper / 2
    # Between neighbouring numbers there is none; the lower one separates them as well. Halving the smallest numbers rounds.
    middle = np.where((lower <= middle) & (middle < upper), middle, lower)
    limits = np.finfo(scores.dtype)
    return np.concatenate([np.nextafter(scores[:1], limits.min), middle, np.nextafter(scores[-1:], limits.max)])
