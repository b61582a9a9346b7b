"""Fits a calibration's parameters to labelled logits.

Classes weigh equally by default: the share of fakes in a benchmark is arbitrary, and p_fake is then for a prior of one half.
Fitted and judged on the same images, a calibration flatters; `folds` says how to judge it inside a set.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.errors import ConfigError, DataError
from mirror_pl.labels import FAKE, REAL
from mirror_pl.scores.curves import require_both_classes

FOLDS: Final = 5


def fit_parameters(
    label: NDArray[np.integer], logit: NDArray[np.floating], method: str, *, balanced: bool = True
) -> dict[str, Any]:
    """Return the arguments of `mirror_pl.calibration.Calibration` that a method fits.

    - ``none``: nothing; for a conformal band alone.
    - ``temperature``: logit / T with T > 0 of the least negative log-likelihood (Guo et al., 2017).
    - ``platt``: slope x logit + offset, with targets drawn in from 0 and 1 to 1 / (n + 2) of a class's n images, as Platt
      (1999) does: so the optimum is finite for separable data too.
    - ``isotonic``: the never falling function of the least squared error, scikit-learn's; probabilities are kept 1 / (n + 2)
      away from 0 and 1, with n images. Logits between two steps share a probability, and their order is lost.
    - ``shift``: logit + offset of the least negative log-likelihood.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        logit: ``(S,)``, finite; the detector's own.
        method: One of `mirror_pl.calibration.METHODS`.
        balanced: Whether both classes weigh one half; else every image weighs the same.

    Raises:
        DataError: If a class has no image, or the method has no finite, rising optimum on these images.
        ConfigError: If there is no such method.
    """
    require_both_classes(label, "a calibration")
    is_fake, x = label == FAKE, logit.astype(np.float64)
    counts = np.where(is_fake, is_fake.sum(), (~is_fake).sum())
    weight = 1 / (2 * counts) if balanced else np.full(len(x), 1 / len(x))
    if method == "none":
        return {}
    if method == "temperature":
        return {"slope": _inverse_temperature(is_fake, x, weight)}
    if method == "shift":
        return {"offset": _shift(is_fake, x, weight)}
    if method == "platt":
        return _platt(is_fake, x, weight)
    if method == "isotonic":
        return _isotonic(is_fake, x, weight)
    raise ConfigError(f"method: there is no {method}")


def folds(label: NDArray[np.integer], seed: int = 0) -> NDArray[np.int64]:
    """Return ``(S,)``, in which of `FOLDS` folds each image is; each class is spread evenly.

    Raises:
        DataError: If a class has fewer images than there are folds.
    """
    generator = np.random.default_rng(seed)
    fold = np.empty(len(label), np.int64)
    for cls in (REAL, FAKE):
        here = generator.permutation(np.flatnonzero(label == cls))
        if len(here) < FOLDS:
            raise DataError(f"cross-validation: a class has {len(here)} images, fewer than {FOLDS} folds")
        fold[here] = np.arange(len(here)) % FOLDS
    return fold


def _inverse_temperature(is_fake: NDArray[np.bool_], x: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Find 1 / T where the slope of the negative log-likelihood, which rises with 1 / T, is 0."""
    from scipy.optimize import brentq

    right = np.where(is_fake, x, -x)
    if np.sum(weight * right) <= 0:
        raise DataError(
            "temperature: on this set the logits of fakes are no higher than those of reals, and no temperature above 0 "
            "helps; look at the detector, or give another set"
        )
    if right.min() >= 0:
        raise DataError(
            "temperature: on this set every image is decided right, and the likelihood grows without end as the temperature "
            "falls to 0; give a larger or harder set, or method=platt, shift or isotonic"
        )

    def slope(log_inverse: float) -> float:
        return float(np.sum(weight * -right * _sigmoid(-right * np.exp(log_inverse))))

    scale = -np.log(np.abs(x).max())  # in units of the logits, so that no bound is near
    low, high = scale - 1, scale + 1
    while slope(low) > 0:
        low -= 1
    while slope(high) < 0:
        high += 1
    return float(np.exp(brentq(slope, low, high, xtol=1e-13, rtol=1e-14)))


def _shift(is_fake: NDArray[np.bool_], x: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    from scipy.optimize import brentq

    def slope(offset: float) -> float:
        return float(np.sum(weight * (_sigmoid(x + offset) - is_fake)))

    # Beyond these ends every probability is as good as 0 or 1; the weight of a class is at least that of one image.
    margin = 40.0 + np.log(len(x))
    return float(brentq(slope, -x.max() - margin, -x.min() + margin, xtol=1e-13, rtol=1e-14))


def _platt(is_fake: NDArray[np.bool_], x: NDArray[np.float64], weight: NDArray[np.float64]) -> dict[str, float]:
    from scipy.optimize import minimize

    fakes, reals = int(is_fake.sum()), int((~is_fake).sum())
    target = np.where(is_fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    centre, scale = float(x.mean()), float(x.std())
    if scale == 0:
        raise DataError("platt: on this set all logits are the same; look at the detector, or give another set")
    inputs = np.stack([(x - centre) / scale, np.ones(len(x))])

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = at @ inputs
        return float(np.sum(weight * (np.logaddexp(0, z) - target * z))), inputs @ (weight * (_sigmoid(z) - target))

    def curvature(at: NDArray[np.float64]) -> NDArray[np.float64]:
        p_fake = _sigmoid(at @ inputs)
        return (inputs * (weight * p_fake * (1 - p_fake))) @ inputs.T

    found = minimize(loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-12}).x
    slope = float(found[0] / scale)
    if slope <= 0:
        raise DataError(
            f"platt: the best slope on this set is {slope:.3g}, not above 0: fakes have no higher logits than reals, and a "
            "calibration would turn the decisions round; look at the detector, or give another set"
        )
    return {"slope": slope, "offset": float(found[1] - slope * centre)}


def _isotonic(
    is_fake: NDArray[np.bool_], x: NDArray[np.float64], weight: NDArray[np.float64]
) -> dict[str, tuple[float, ...]]:
    from sklearn.isotonic import IsotonicRegression

    found = IsotonicRegression(out_of_bounds="clip").fit(x, is_fake.astype(np.float64), sample_weight=weight)
    if found.y_thresholds_[0] == found.y_thresholds_[-1]:
        raise DataError(
            "isotonic: the best rising function on this set is a constant: fakes have no higher logits than reals; look at "
            "the detector, or give another set"
        )
    least = 1 / (len(x) + 2)
    probabilities = np.clip(found.y_thresholds_, least, 1 - least)
    return {"logits": tuple(found.X_thresholds_.tolist()), "probabilities": tuple(probabilities.tolist())}


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(z))
