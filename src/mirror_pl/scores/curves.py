"""ROC and precision-recall curves with fake as the positive class, exact, and thinned for drawing.

Equal scores share one threshold, as in the metrics. Nothing is interpolated, so what is read off a curve was reached by a
threshold on these images.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.errors import DataError
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

_INVISIBLE: Final = 1e-9
"""A distance that no picture shows, far above what float64 rounding leaves between points of a straight line."""


@dataclass(frozen=True)
class Curve:
    """Points of a curve, in order of falling threshold.

    Attributes:
        x: ``(P,)`` float64 in [0, 1], never falling.
        y: ``(P,)`` float64 in [0, 1].
        threshold: ``(P,)`` float64; at a point, an image is decided fake if its score is at least this. The first is +inf.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    threshold: NDArray[np.float64]


def roc_curve(label: NDArray[np.integer], score: NDArray[np.floating]) -> Curve:
    """Return false positive rate (x) against true positive rate (y) at every distinct score, from (0, 0) to (1, 1).

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        score: ``(S,)``, finite; ranks the images, the larger the more likely fake.

    Raises:
        DataError: If a class has no image.
    """
    require_both_classes(label, "an ROC curve")
    reals, fakes, threshold = _passed_by_threshold(label, score)
    return Curve(reals / reals[-1], fakes / fakes[-1], threshold)


def precision_recall_curve(label: NDArray[np.integer], score: NDArray[np.floating]) -> Curve:
    """Return recall (x) against precision (y) at every distinct score, from recall 0 to 1.

    Where nothing is decided fake, precision is taken to be 1, as in scikit-learn.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        score: ``(S,)``, finite; ranks the images, the larger the more likely fake.

    Raises:
        DataError: If a class has no image.
    """
    require_both_classes(label, "a precision-recall curve")
    reals, fakes, threshold = _passed_by_threshold(label, score)
    precision = np.ones(len(fakes))
    precision[1:] = fakes[1:] / (fakes[1:] + reals[1:])
    return Curve(fakes / fakes[-1], precision, threshold)


def tpr_at_fpr(label: NDArray[np.integer], score: NDArray[np.floating], fpr: float) -> float:
    """Return the largest true positive rate over thresholds whose false positive rate is at most `fpr`.

    Not interpolated: with 10 reals and `fpr` 0.05, none of them may be decided fake. 0 where no threshold finds a fake so.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        score: ``(S,)``, finite; ranks the images.
        fpr: In [0, 1].

    Raises:
        DataError: If a class has no image.
    """
    return tpr_on_curve(roc_curve(label, score), fpr)


def tpr_on_curve(roc: Curve, fpr: float) -> float:
    """Do the same for a curve of `roc_curve`, which is worth keeping if several rates are asked for."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}, expected a rate in [0, 1]")
    return float(roc.y[np.searchsorted(roc.x, fpr, side="right") - 1])


def equal_error_rate(label: NDArray[np.integer], score: NDArray[np.floating]) -> float:
    """Return the smallest rate that no threshold needs to exceed in either class: min over thresholds of max(FPR, FNR).

    Where some threshold makes both rates equal, it is their value. Where none does, as with few images or ties, nothing is
    interpolated: the larger of the two is reported at the threshold where it is smallest. 0 is perfect, 0.5 chance.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        score: ``(S,)``, finite; ranks the images.

    Raises:
        DataError: If a class has no image.
    """
    return eer_on_curve(roc_curve(label, score))


def eer_on_curve(roc: Curve) -> float:
    """Do the same for a curve of `roc_curve`."""
    return float(np.maximum(roc.x, 1 - roc.y).min())


def smallest_fpr(reals: int, level: float = 0.95) -> float:
    """Return the smallest false positive rate that a number of reals allows one to claim: that of none being decided fake.

    If none of n independent reals is decided fake, rates up to 1 - (1 - level)^(1/n), about 3 / n at 95 %, are within the
    one-sided exact bound. 0.1 % takes 2,995 reals, 1 % takes 299, and 5 % takes 59.

    Args:
        reals: At least 1.
        level: Of the bound, between 0 and 1.
    """
    if reals < 1:
        raise ValueError(f"reals is {reals}, expected at least 1")
    return float(-np.expm1(np.log1p(-level) / reals))


def tolerated(fpr: float, reals: int) -> int:
    """Return how many of `reals` images may be decided fake at a false positive rate of at most `fpr`."""
    # The product may be rounded to either side of an integer, so the quotient is asked, as a curve's is.
    passed = np.arange(max(0, int(fpr * reals) - 1), min(reals, int(fpr * reals) + 1) + 1)
    return int(passed[passed / reals <= fpr].max())


def thin(curve: Curve, points: int = 200) -> Curve:
    """Leave out points that a drawing does not miss.

    Both ends stay. Then the point farthest from the lines drawn so far is added, until none is off them or there are enough
    (Douglas and Peucker, 1973, by number of points): corners stay, points on a straight stretch go.

    Args:
        curve: Any number of points, at least one.
        points: At most so many are kept, at least 2.

    Time: about P log(`points`) for P points of the curve.
    """
    if points < 2:
        raise ValueError(f"points is {points}, expected at least the two ends")
    last = len(curve.x) - 1
    kept = {0, last}
    # The heap's first is the stretch whose farthest point is farthest; `start` decides between equals.
    stretches = [_farthest(curve, 0, last)]
    while stretches and len(kept) < points:
        negative_distance, start, middle, end = heapq.heappop(stretches)
        if -negative_distance <= _INVISIBLE:
            break
        kept.add(middle)
        heapq.heappush(stretches, _farthest(curve, start, middle))
        heapq.heappush(stretches, _farthest(curve, middle, end))
    chosen = np.array(sorted(kept))
    return Curve(curve.x[chosen], curve.y[chosen], curve.threshold[chosen])


def require_both_classes(label: NDArray[np.integer], what: str) -> None:
    """Raise DataError, naming `what` needs them and the class that is missing, unless `label` has reals and fakes."""
    for cls in (REAL, FAKE):
        if not (label == cls).any():
            raise DataError(
                f"{what} needs real and fake images with a score: none of the {len(label)} is {LABEL_NAMES[cls]}"
            )


def _passed_by_threshold(
    label: NDArray[np.integer], score: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Count the reals and fakes that score at least each distinct score, highest first, behind a threshold of +inf."""
    order = np.argsort(score, kind="stable")[::-1]
    score = score[order]
    last_of_score = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)
    fakes = np.cumsum(label[order] == FAKE)[last_of_score]
    passed = np.append(0, last_of_score + 1)
    fakes = np.append(0, fakes)
    return passed - fakes, fakes, np.append(np.inf, score[last_of_score].astype(np.float64))


def _farthest(curve: Curve, start: int, end: int) -> tuple[float, int, int, int]:
    """Find the point between `start` and `end` that is farthest from the line between them: (-distance, start, it, end)."""
    if end - start < 2:
        return 0.0, start, start, end
    dx, dy = curve.x[end] - curve.x[start], curve.y[end] - curve.y[start]
    x, y = curve.x[start + 1 : end] - curve.x[start], curve.y[start + 1 : end] - curve.y[start]
    length = float(np.hypot(dx, dy))
    distance = np.abs(dx * y - dy * x) / length if length else np.hypot(x, y)
    position = int(distance.argmax())
    return -float(distance[position]), start, start + 1 + position, end
