"""Detectors that leave images undecided: what their third answer comes to, and error against coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirror_pl.abstention import UNSURE
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.scores.curves import Curve, require_both_classes


@dataclass(frozen=True)
class Answers:
    """What was said of the images of one class.

    Attributes:
        decided: Images that were decided, either way.
        unsure: The others.
        wrong: Decided images whose decision is wrong.
    """

    decided: int
    unsure: int
    wrong: int

    @property
    def wrong_of_all(self) -> float | None:
        """Share of all images of the class that are decided wrongly: what a conformal band bounds."""
        return self.wrong / (self.decided + self.unsure) if self.decided + self.unsure else None

    @property
    def wrong_of_decided(self) -> float | None:
        """Share of the decided ones; no band bounds it."""
        return self.wrong / self.decided if self.decided else None


@dataclass(frozen=True)
class Abstention:
    """What was said of the images of each class, by its name, at the error rate that was asked for."""

    rate: float
    classes: Mapping[str, Answers]

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain values."""
        classes = {
            name: {**asdict(part), "wrong_of_all": part.wrong_of_all, "wrong_of_decided": part.wrong_of_decided}
            for name, part in self.classes.items()
        }
        return {"rate": self.rate, **classes}


def abstention_of(label: NDArray[np.integer], verdict: NDArray[np.integer], rate: float) -> Abstention:
    """Count the answers of each class.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        verdict: ``(S,)``, of `mirror_pl.abstention.Band`.
        rate: That was asked for.
    """
    classes = {}
    for cls in (REAL, FAKE):
        here = verdict[label == cls]
        unsure = int(np.count_nonzero(here == UNSURE))
        wrong = int(np.count_nonzero((here != cls) & (here != UNSURE)))
        classes[LABEL_NAMES[cls]] = Answers(len(here) - unsure, unsure, wrong)
    return Abstention(rate, classes)


def risk_coverage_curve(label: NDArray[np.integer], logit: NDArray[np.floating]) -> Curve:
    """Return coverage (x) against selective error (y): what deciding the surest images alone costs.

    That of El-Yaniv and Wiener (2010), with both classes weighing one half. The surest are those whose logits lie farthest
    from 0; images equally sure come together. Coverage is the mean of the shares of reals and of fakes that are decided, and
    the error is the mean of the shares that are decided wrongly, over the coverage. At coverage 1 it is 1 minus the balanced
    accuracy.

    Args:
        label: ``(S,)``, 0 real and 1 fake.
        logit: ``(S,)``, finite; above 0 is decided fake.

    Returns:
        A point at each distinct distance from 0, which is its ``threshold``; the first decides the surest alone.

    Raises:
        DataError: If a class has no image.
    """
    require_both_classes(label, "a risk-coverage curve")
    sure, is_fake = np.abs(logit.astype(np.float64)), label == FAKE
    weight = np.where(is_fake, 0.5 / is_fake.sum(), 0.5 / (~is_fake).sum())
    wrong = weight * ((logit > 0) != is_fake)
    negative, position = np.unique(-sure, return_inverse=True)
    coverage: NDArray[np.float64] = np.cumsum(np.bincount(position, weights=weight)).astype(np.float64)
    return Curve(coverage, np.cumsum(np.bincount(position, weights=wrong)) / coverage, np.abs(negative).astype(np.float64))


def area_under(curve: Curve) -> float:
    """Return the area under a risk-coverage curve (AURC): the mean selective error over coverages; 0 is perfect.

    Between its points the curve is that of equally sure images, which come together: a step, no line.
    """
    return float(np.sum(np.diff(curve.x, prepend=0.0) * curve.y))
