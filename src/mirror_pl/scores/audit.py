"""Whether a benchmark's files give its labels away: how well properties that are no pixels tell real from fake.

A detector can score well on such a benchmark without looking at a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.labels import FAKE, REAL

ERROR_RATE: Final = 0.05
"""How often a set without a confound is reported as one with."""

FEWEST: Final = 20
"""Images of each class, with fewer of which nothing is said."""

_FOLDS: Final = 5
_HALVINGS: Final = 5
_MOST_VALUES: Final = 200
"""Different values of a feature that is no number; rarer ones count as one."""


@dataclass(frozen=True)
class Separability:
    """How well a model tells real from fake by some features.

    Attributes:
        balanced_accuracy: Of predictions for images that the model was not fitted on, by five folds.
        low: Lower end of its 95 % interval, which takes the images for independent.
        high: Upper end.
        p_value: How often labels that have nothing to do with the features would be told as well, at most. The model is
            fitted on one half of the images; of its predictions for the other half Fisher's exact test is made, one-sided.
            It is twice the median over `_HALVINGS` ways to halve, and both halves (Meinshausen, Meier and Bühlmann, 2009):
            that holds its level however they depend on one another, and does not hang on one lucky or unlucky half.
    """

    balanced_accuracy: float
    low: float
    high: float
    p_value: float

    @property
    def is_confound(self) -> bool:
        """Whether that is more than chance, at `ERROR_RATE`."""
        return self.p_value < ERROR_RATE


@dataclass(frozen=True)
class Audit:
    """What is told by all features together, and by each alone.

    Attributes:
        reals: Images looked at.
        fakes: Likewise.
        together: By all features.
        alone: By name, the strongest first.
    """

    reals: int
    fakes: int
    together: Separability
    alone: Mapping[str, Separability]


def audit(features: Mapping[str, Sequence[Any]], labels: NDArray[np.integer], seed: int = 0) -> Audit | None:
    """Try to tell real from fake by features alone.

    Args:
        features: By name, a value for each of N images: numbers, NaN where there is none, or texts.
        labels: ``(N,)``, 0 real and 1 fake.
        seed: Of folds and halves; 0 or above.

    Returns:
        None if one of the classes has fewer than `FEWEST` images.
    """
    reals, fakes = int((labels == REAL).sum()), int((labels == FAKE).sum())
    if min(reals, fakes) < FEWEST:
        return None
    alone = {name: separability({name: values}, labels, seed) for name, values in features.items()}
    strongest = dict(sorted(alone.items(), key=lambda item: -item[1].balanced_accuracy))
    return Audit(reals, fakes, separability(features, labels, seed), strongest)


def separability(features: Mapping[str, Sequence[Any]], labels: NDArray[np.integer], seed: int = 0) -> Separability:
    """Fit a few boosted trees, and count how often they are right about images that they have not seen; see `audit`.

    Out-of-fold predictions depend on one another: each image is told by a model that was fitted on images that were told by
    models fitted on it. So without a confound they spread more than independent ones (1.3 times as much in simulations), and
    their interval cannot decide. Predictions for one half by a model of the other are independent, whatever the model.
    """
    from scipy.stats import fisher_exact
    from sklearn.model_selection import StratifiedKFold

    columns = np.column_stack([_codes(values) for values in features.values()])
    words = [_is_text(values) for values in features.values()]

    def predicted(folds: int, turn: int = 0) -> list[tuple[NDArray[np.intp], NDArray[np.integer]]]:
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed + turn).split(columns, labels)
        return [(test, _fitted(columns[train], labels[train], words).predict(columns[test])) for train, test in splits]

    folds = predicted(_FOLDS)
    order = np.concatenate([test for test, _ in folds])
    right = np.concatenate([found for _, found in folds]) == labels[order]
    value, low, high = balanced_accuracy_interval(right, labels[order])
    p_values = []
    for test, found in (half for turn in range(_HALVINGS) for half in predicted(2, turn)):
        fakes, reals = (labels[test] == label for label in (FAKE, REAL))
        counts = [[int((found[of_class] == guess).sum()) for guess in (FAKE, REAL)] for of_class in (fakes, reals)]
        p_values.append(fisher_exact(counts, "greater").pvalue)
    return Separability(value, low, high, min(1.0, 2 * float(np.median(p_values))))


def _is_text(values: Sequence[Any]) -> bool:
    return np.asarray(values).dtype.kind == "U"


def _codes(values: Sequence[Any]) -> NDArray[np.float64]:
    if not _is_text(values):
        return np.asarray(values, float)
    names, codes, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks = np.empty(len(names))
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    return np.minimum(ranks[codes], _MOST_VALUES)


def _fitted(columns: NDArray[np.float64], labels: NDArray[np.integer], words: list[bool]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=20,
        learning_rate=0.3,
        max_leaf_nodes=8,
        min_samples_leaf=5,
        categorical_features=words,
        early_stopping=False,
        class_weight="balanced",  # the rarer class counts as much
        random_state=0,
    )
    return model.fit(columns, labels)


def balanced_accuracy_interval(right: NDArray[np.bool_], labels: NDArray[np.integer]) -> tuple[float, float, float]:
    """Return it with its 95 % interval: Wilson's of both classes, put together as Newcombe (1998) does."""
    from scipy.stats import binomtest

    shares, below, above = [], [], []
    for label in (REAL, FAKE):
        of_class = right[labels == label]
        found = binomtest(int(of_class.sum()), len(of_class))
        ends = found.proportion_ci(0.95, "wilson")
        shares.append(found.statistic)
        below.append(found.statistic - ends.low)
        above.append(ends.high - found.statistic)
    value = sum(shares) / 2
    return value, value - float(np.hypot(*below)) / 2, value + float(np.hypot(*above)) / 2
