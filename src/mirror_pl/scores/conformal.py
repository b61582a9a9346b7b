"""The quantiles of a split-conformal predictor, fitted; ``mirror_pl.abstention`` says what is made of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirror_pl.abstention import RATES, STEP, Quantiles
from mirror_pl.labels import FAKE, REAL
from mirror_pl.scores.curves import require_both_classes


def fit_quantiles(label: NDArray[np.integer], logit: NDArray[np.floating]) -> Quantiles:
    """Return the order statistics of each class by which another image of it is left out at most as often as a rate allows.

    Of n exchangeable reals and one more, the latter is above the r-th smallest of the n with a probability of at most
    1 - r / (n + 1), so r = ceil((n + 1)(1 - rate)); for fakes, mirrored, the floor((n + 1) rate)-th smallest. Ties make it
    rarer. Where the rank is beyond the set, there is no such logit.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        logit: ``(S,)``, finite; the detector's own.

    Raises:
        DataError: If a class has no image.
    """
    require_both_classes(label, "a conformal band")
    reals, fakes = np.sort(logit[label == REAL]), np.sort(logit[label == FAKE])
    steps = round(1 / STEP)
    # In integers: a product with 0.9 may be rounded past the rank.
    below = [-(-(len(reals) + 1) * (steps - rate) // steps) for rate in range(1, RATES + 1)]
    above = [(len(fakes) + 1) * rate // steps for rate in range(1, RATES + 1)]
    return Quantiles(
        tuple(float(reals[rank - 1]) if rank <= len(reals) else None for rank in below),
        tuple(float(fakes[rank - 1]) if rank >= 1 else None for rank in above),
        len(reals),
        len(fakes),
    )
