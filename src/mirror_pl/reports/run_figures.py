"""What is drawn of one run: ROC curves, distributions of p_fake, reliability, and the worst errors. Computed, not drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.calibration import p_fake_of
from mirror_pl.labels import FAKE, REAL
from mirror_pl.reports.chosen_images import ChosenImage, chosen_images
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset
from mirror_pl.scores.curves import Curve, roc_curve, thin
from mirror_pl.scores.reliability import Reliability, reliability
from mirror_pl.scores.selective import area_under, risk_coverage_curve
from mirror_pl.scores.table import raw_logits

POINTS: Final = 100
"""Most points of a curve: a small chart does not show more, and a page of a hundred charts must stay small."""

BINS: Final = 40
"""Bins of p_fake in a histogram."""


@dataclass(frozen=True)
class SubsetFigures:
    """What is drawn of a subset.

    Attributes:
        subset: Its name.
        roc: Thinned; None where a class has no scored image.
        reals: ``(BINS,)`` int64, scored reals by p_fake.
        fakes: ``(BINS,)`` int64, scored fakes by p_fake.
    """

    subset: str
    roc: Curve | None
    reals: NDArray[np.int64]
    fakes: NDArray[np.int64]


@dataclass(frozen=True)
class RunFigures:
    """What is drawn of a run.

    Attributes:
        subsets: One a subset, in the table's order.
        reliability: Over all distinct images.
        before: Likewise, by the detector's own logits, where the scores are calibrated; else None.
        risk: Their risk-coverage curve, thinned; None where a class has no scored image.
        aurc: The area under it.
        errors: How many distinct images are decided wrongly.
        worst: The first of them by how sure the detector was.
    """

    subsets: tuple[SubsetFigures, ...]
    reliability: Reliability
    before: Reliability | None
    risk: Curve | None
    aurc: float | None
    errors: int
    worst: tuple[ChosenImage, ...]


def run_figures(table: pa.Table, worst: int) -> RunFigures:
    """Compute what is drawn of one run's prediction table, with up to `worst` errors."""
    data = columns(table)
    subsets = []
    for name, here in zip(data.names, rows_by_subset(data), strict=True):
        kept = here[data.scored[here]]
        label, p_fake = data.label[kept], data.p_fake[kept]
        both = (label == REAL).any() and (label == FAKE).any()
        roc = thin(roc_curve(label, p_fake), POINTS) if both else None
        subsets.append(SubsetFigures(name, roc, _histogram(p_fake[label == REAL]), _histogram(p_fake[label == FAKE])))
    distinct = distinct_rows(data)
    distinct = distinct[data.scored[distinct]]
    wrong = distinct[(data.logit[distinct] > 0) != (data.label[distinct] == FAKE)]
    label, logit = data.label[distinct], data.logit[distinct]
    calibrated = "raw_logit" in table.column_names
    risk = risk_coverage_curve(label, logit) if (label == REAL).any() and (label == FAKE).any() else None
    return RunFigures(
        tuple(subsets),
        reliability(label, data.p_fake[distinct]),
        reliability(label, p_fake_of(raw_logits(table)[distinct])) if calibrated else None,
        thin(risk, POINTS) if risk else None,
        area_under(risk) if risk else None,
        len(wrong),
        # By the largest logit either way: p_fake is 0 or 1 for all that are far enough out.
        chosen_images(table, data, wrong[np.argsort(-np.abs(data.logit[wrong]), kind="stable")[:worst]]),
    )


def _histogram(p_fake: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.histogram(p_fake, bins=BINS, range=(0, 1))[0]
