"""How a detector's figures move when its images are perturbed: per condition, paired with the images as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mirror_pl.labels import FAKE, LABEL_NAMES
from mirror_pl.scores.bootstrap import Estimate, Replicates, bootstrap, estimate
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset
from mirror_pl.scores.metrics import score_benchmark
from mirror_pl.scores.table import SCORED
from mirror_pl.scores.threshold import bal_acc_at, fit_threshold

FIGURES: Final = ("bal_acc", "auc", "real_acc", "fake_acc")
"""Of each condition; fractions, means over subsets."""


@dataclass(frozen=True)
class Shift:
    """What a condition does to the logits of one class's images, each held against itself as it is.

    Attributes:
        mean: Mean change of the logit.
        low: 5 % of the images change by less.
        median: Half of them do.
        high: 95 % do.
        turned: Share of images whose decision changes.
    """

    mean: float
    low: float
    median: float
    high: float
    turned: float


@dataclass(frozen=True)
class ConditionScores:
    """The figures of one condition.

    Attributes:
        name: As settings have it.
        family: What it is of; empty for the images as they are.
        figures: Each of `FIGURES`, with its interval.
        gap: The figure of the images as they are minus this one, with the interval of the paired bootstrap.
        subsets: Each of `FIGURES` per subset.
        at_clean_threshold: Balanced accuracy, mean over subsets, at the threshold that is best for the images as they are.
        at_other_threshold: Likewise, at the one fitted on another set; None where there is none.
        shift: By class; empty for the images as they are.
    """

    name: str
    family: str
    figures: Mapping[str, Estimate]
    gap: Mapping[str, Estimate]
    subsets: Mapping[str, Mapping[str, float | None]]
    at_clean_threshold: float | None
    at_other_threshold: float | None
    shift: Mapping[str, Shift]


@dataclass(frozen=True)
class Robustness:
    """The figures of a suite.

    Attributes:
        conditions: The images as they are, then each condition.
        mean: Mean of each of `FIGURES` over the perturbations, with its interval.
        mean_gap: The figure of the images as they are minus that mean.
        worst: Of each of `FIGURES`, the name of the perturbation where it is lowest; empty where it is defined nowhere.
        reals: Distinct real images that are scored under every condition: no figure rests on others.
        fakes: Distinct fake ones.
        left_out: Images without a score under some condition.
        clean_threshold: The logit that the threshold fitted on the images as they are is at; None without both classes.
        other_threshold: The one fitted on another set; None where there is none.
    """

    conditions: tuple[ConditionScores, ...]
    mean: Mapping[str, Estimate]
    mean_gap: Mapping[str, Estimate]
    worst: Mapping[str, str]
    reals: int
    fakes: int
    left_out: int
    clean_threshold: float | None
    other_threshold: float | None


def score_conditions(
    clean: pa.Table,
    perturbed: Sequence[pa.Table],
    families: Mapping[str, Sequence[str]],
    *,
    outside: Sequence[str] = (),
    other_threshold: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Callable[[Sequence[pa.Table]], Iterable[pa.Table]] = lambda tables: tables,
) -> Robustness:
    """Compute the figures of all conditions.

    Each figure is of the images that have a score under every condition, so that conditions differ in nothing else. All
    intervals are from the same draws of images: a gap's is that of the differences (paired bootstrap).

    The threshold that is fitted on the images as they are is fitted and judged on the same images there; under the other
    conditions it is what one would have set before.

    Args:
        clean: Prediction table of the images as they are, rows of one benchmark.
        perturbed: The same rows under each of the conditions.
        families: Names of those, by family, in the same order.
        outside: Families that are in no mean and no worst case.
        other_threshold: A logit, fitted elsewhere.
        replicates: Of the bootstrap.
        seed: Of the bootstrap.
        level: Of the intervals.
        progress: Wraps the tables, to show how far it is.
    """
    everywhere = np.logical_and.reduce([_scored(table) for table in (clean, *perturbed)])
    kept = pa.array(everywhere)
    left_out = len(np.unique(clean["id"].to_numpy()[~everywhere]))
    clean = clean.filter(kept)
    data = columns(clean)
    once = distinct_rows(data)
    threshold = None
    if len(np.unique(data.label[once])) == 2:
        threshold = fit_threshold(data.label[once], data.logit[once]).logit

    def draw(table: pa.Table) -> Replicates:
        return bootstrap(table, replicates=replicates, seed=seed, paired_with=clean)

    def scored(table: pa.Table, name: str, family: str) -> tuple[ConditionScores, Replicates]:
        scores, drawn = score_benchmark(table), draw(table)
        figures = {key: estimate(scores.mean[key], drawn.mean[key], level) for key in FIGURES}
        gap = {}
        for key in FIGURES if family else ():
            before, now = of_clean[0].figures[key].value, figures[key].value
            difference = None if before is None or now is None else before - now
            gap[key] = estimate(difference, of_clean[1].mean[key] - drawn.mean[key], level)
        subsets = {row.subset: {key: row.metrics[key] for key in FIGURES} for row in scores.rows}
        shift = _shifts(clean, table, once) if family else {}
        at_clean, at_other = _mean_at(table, threshold), _mean_at(table, other_threshold)
        return ConditionScores(name, family, figures, gap, subsets, at_clean, at_other, shift), drawn

    of_clean = scored(clean, "clean", "")
    found = [of_clean[0]]
    names = [(name, family) for family, members in families.items() for name in members]
    total: dict[str, NDArray[np.float64]] = dict.fromkeys(FIGURES, np.zeros(replicates))
    for table, (name, family) in zip(progress(perturbed), names, strict=True):
        one, drawn = scored(table.filter(kept), name, family)
        found.append(one)
        if family not in outside:
            total = {key: total[key] + drawn.mean[key] for key in FIGURES}
    inside = [one for one in found if one.family and one.family not in outside]
    mean, mean_gap, worst = {}, {}, {}
    for key in FIGURES:
        values = [(value, one.name) for one in inside if (value := one.figures[key].value) is not None]
        average = float(np.mean([value for value, _ in values])) if values else None
        of_replicates = total[key] / max(1, len(inside))
        mean[key] = estimate(average, of_replicates, level)
        before = of_clean[0].figures[key].value
        difference = None if before is None or average is None else before - average
        mean_gap[key] = estimate(difference, of_clean[1].mean[key] - of_replicates, level)
        worst[key] = min(values, default=(0.0, ""))[1]
    fakes = int(np.count_nonzero(data.label[once] == FAKE))
    return Robustness(tuple(found), mean, mean_gap, worst, len(once) - fakes, fakes, left_out, threshold, other_threshold)


def _scored(table: pa.Table) -> NDArray[np.bool_]:
    names = pa.array([str(status) for status in SCORED])
    scored: NDArray[np.bool_] = pc.is_in(table["status"].cast(pa.string()), value_set=names).to_numpy()
    return scored


def _mean_at(table: pa.Table, threshold: float | None) -> float | None:
    """Return the mean over subsets of balanced accuracy at a threshold; None where it is defined in none."""
    if threshold is None:
        return None
    data = columns(table)
    values = [bal_acc_at(data.label[here], data.logit[here], threshold) for here in rows_by_subset(data)]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _shifts(clean: pa.Table, table: pa.Table, once: NDArray[np.int64]) -> dict[str, Shift]:
    label = clean["label"].to_numpy()[once]
    before, now = (each["logit"].to_numpy()[once].astype(np.float64) for each in (clean, table))
    found = {}
    for number, name in enumerate(LABEL_NAMES):
        here = label == number
        if here.any():
            change = now[here] - before[here]
            low, median, high = np.quantile(change, [0.05, 0.5, 0.95])
            turned = np.mean((now[here] > 0) != (before[here] > 0))
            found[name] = Shift(float(change.mean()), float(low), float(median), float(high), float(turned))
    return found
