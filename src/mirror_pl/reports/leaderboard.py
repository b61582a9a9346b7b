"""The leaderboard: detectors beside each other on benchmarks, with intervals, group means, and what they are means of.

All values are fractions. Nothing is read or drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.benchmarks.published import published_numbers
from mirror_pl.reports.detector_names import DetectorName
from mirror_pl.reports.number_format import percent
from mirror_pl.reports.published_csv import Delta
from mirror_pl.scores.bootstrap import Estimate, Replicates, interval
from mirror_pl.scores.paired import PairedComparison
from mirror_pl.scores.threshold import FittedThreshold

GROUPS: Final = {"standard": "Standard", "in-the-wild": "In the wild", "human": "Human", "other": "Other"}
"""Titles of the published table's parts, in its order."""

EVERYTHING: Final = "all"
"""Stands for all benchmarks, where a group is named."""


@dataclass(frozen=True)
class Row:
    """The figures of a subset, or of all images of a benchmark together.

    Attributes:
        subset: Its name.
        reals: Scored real images.
        fakes: Scored fake images.
        unscored: Images without a score.
        metrics: Each of ``scores.extended.EXTENDED``.
        at_threshold: Balanced accuracy at the fitted threshold; None where there is none, or it does not apply.
    """

    subset: str
    reals: int
    fakes: int
    unscored: int
    metrics: Mapping[str, Estimate]
    at_threshold: float | None = None


@dataclass(frozen=True)
class Result:
    """One detector on one benchmark.

    Attributes:
        benchmark: Its name.
        detector: Its label.
        folder: The run's folder.
        finished: When the run was complete, ISO 8601.
        rows: One a subset.
        mean: Mean of each metric over the rows where it is defined.
        mean_rows: How many rows entered it.
        pooled: All distinct images together.
        missing: Subsets that were not on disk.
        published: The mean balanced accuracy beside each published one.
        at_threshold: Mean balanced accuracy at the fitted threshold; None where some subset has none.
        replicates: Of the bootstrap, for intervals of further means.
        before: Each metric of all distinct images before calibration; None where there is none.
    """

    benchmark: str
    detector: str
    folder: str
    finished: str
    rows: tuple[Row, ...]
    mean: Mapping[str, Estimate]
    mean_rows: Mapping[str, int]
    pooled: Row
    missing: tuple[str, ...]
    published: tuple[Delta, ...]
    at_threshold: float | None
    replicates: Replicates = field(repr=False)
    before: Mapping[str, float | None] | None = None

    @property
    def headline(self) -> Estimate:
        """The mean balanced accuracy over subsets."""
        return self.mean["bal_acc"]

    @property
    def undefined(self) -> tuple[str, ...]:
        """Subsets whose balanced accuracy is undefined, for they lack scored images of a class."""
        return tuple(row.subset for row in self.rows if row.metrics["bal_acc"].value is None)

    @property
    def subsets(self) -> int:
        """How many subsets the benchmark has, on disk or not."""
        return len(self.rows) + len(self.missing)

    @property
    def is_partial(self) -> bool:
        """Whether the mean is over fewer subsets than the benchmark has."""
        return bool(self.missing or self.undefined)


@dataclass(frozen=True)
class GroupMean:
    """A detector's mean over the benchmarks of a group.

    Attributes:
        mean: Unweighted mean over benchmarks of their means over subsets.
        pooled: Balanced accuracy over the images of these benchmarks together.
        at_threshold: Mean over benchmarks at the fitted threshold.
        entered: How many benchmarks entered `mean`.
        entered_at_threshold: How many entered `at_threshold`.
        of: How many benchmarks the group has in the report.
        partial: Whether some that entered are partial themselves.
    """

    mean: Estimate
    pooled: Estimate
    at_threshold: float | None
    entered: int
    entered_at_threshold: int
    of: int
    partial: bool

    @property
    def is_partial(self) -> bool:
        """Whether it is a mean over less than the group."""
        return self.entered > 0 and (self.partial or self.entered < self.of)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark in a report."""

    name: str
    title: str
    group: str


@dataclass(frozen=True)
class Comparison:
    """Two detectors on the same images; `benchmark` is `EVERYTHING` over all that both were run on."""

    benchmark: str
    first: str
    second: str
    figures: PairedComparison


@dataclass(frozen=True)
class IncompleteRun:
    """A run without ``run.json``: interrupted, or still running. Images scored so far, as far as is known."""

    benchmark: str
    title: str
    checkpoint: str
    folder: str
    scored: int


@dataclass(frozen=True)
class Leaderboard:
    """Everything that a report says, but for curves and pictures.

    Attributes:
        detectors: In the order of their runs.
        benchmarks: In the published order, those that are in no published table behind them.
        results: By benchmark and detector; where a detector was not run on a benchmark, there is none.
        threshold_from: The set that thresholds were fitted on; None for none.
        thresholds: By detector, where one could be fitted.
        comparisons: Pairs of detectors.
        incomplete: Runs that are in no mean.
        notes: What a reader must know, each in a sentence.
        level: Of the intervals.
        replicates: Of the bootstrap.
        seed: Of the bootstrap.
        made: When the report was made, ISO 8601.
    """

    detectors: tuple[DetectorName, ...]
    benchmarks: tuple[Benchmark, ...]
    results: Mapping[tuple[str, str], Result]
    threshold_from: str | None
    thresholds: Mapping[str, FittedThreshold]
    comparisons: tuple[Comparison, ...]
    incomplete: tuple[IncompleteRun, ...]
    notes: tuple[str, ...]
    level: float
    replicates: int
    seed: int
    made: str

    @property
    def labels(self) -> list[str]:
        """The detectors' labels."""
        return [detector.label for detector in self.detectors]

    def groups(self) -> dict[str, list[Benchmark]]:
        """Return the benchmarks by group, in the published order."""
        return grouped(self.benchmarks)

    def group_mean(self, detector: str, benchmarks: Sequence[Benchmark]) -> GroupMean:
        """Return a detector's mean over some benchmarks."""
        return group_mean([self.results.get((benchmark.name, detector)) for benchmark in benchmarks], self.level)

    def means(self) -> dict[str, list[Benchmark]]:
        """Return what there is a mean over: each group of two benchmarks or more, and all, if that is something else."""
        several = {group: list(found) for group, found in self.groups().items() if len(found) > 1}
        if len(self.benchmarks) > max((len(found) for found in several.values()), default=1):
            several[EVERYTHING] = list(self.benchmarks)
        return several

    def best(self, benchmark: str) -> str | None:
        """Return the detector with the highest mean on a benchmark.

        None where the means are not over the same subsets, or the two highest are printed alike.
        """
        results = [self.results.get((benchmark, label)) for label in self.labels]
        found = [(result.headline.value or 0.0, result.detector) for result in results if result and not result.is_partial]
        if len(found) < max(2, len(self.labels)):
            return None
        (highest, first), (second, _) = sorted(found, reverse=True)[:2]
        return None if percent(highest) == percent(second) else first


def by_number(published: Sequence[Delta]) -> list[tuple[Delta, list[str]]]:
    """Gather what is published of one detector on one benchmark: each number once, with all sources that print it."""
    sources: dict[float, list[str]] = {}
    for delta in published:
        sources.setdefault(delta.published, []).append(delta.source)
    first = {delta.published: delta for delta in reversed(published)}
    return [(first[number], names) for number, names in sources.items()]


def in_order(benchmarks: Sequence[Benchmark]) -> tuple[Benchmark, ...]:
    """Put benchmarks, each once, into the order of the report: by group, in the published order, then by name."""
    published = list(dict.fromkeys(number.benchmark for number in published_numbers()))
    groups = [*GROUPS, *sorted({benchmark.group for benchmark in benchmarks} - set(GROUPS))]

    def place(benchmark: Benchmark) -> tuple[int, int, str]:
        known = published.index(benchmark.name) if benchmark.name in published else len(published)
        return groups.index(benchmark.group), known, benchmark.name

    return tuple(sorted({benchmark.name: benchmark for benchmark in benchmarks}.values(), key=place))


def grouped(benchmarks: Sequence[Benchmark]) -> dict[str, list[Benchmark]]:
    """Gather benchmarks, which are in order, by group."""
    found: dict[str, list[Benchmark]] = {}
    for benchmark in benchmarks:
        found.setdefault(benchmark.group, []).append(benchmark)
    return found


def group_mean(results: Sequence[Result | None], level: float) -> GroupMean:
    """Average one detector's results over benchmarks; those that it has none of, or an undefined one, do not enter."""
    entered = [result for result in results if result is not None and result.headline.value is not None]
    values = [result.headline.value for result in entered if result.headline.value is not None]
    at_threshold = [result.at_threshold for result in entered if result.at_threshold is not None]
    return GroupMean(
        mean=_estimate(float(np.mean(values)) if values else None, _mean_replicates(entered), level),
        pooled=_pooled(entered, level),
        at_threshold=float(np.mean(at_threshold)) if at_threshold else None,
        entered=len(entered),
        entered_at_threshold=len(at_threshold),
        of=len(results),
        partial=any(result.is_partial for result in entered),
    )


def _estimate(value: float | None, replicates: NDArray[np.float64] | None, level: float) -> Estimate:
    found = None if replicates is None else interval(replicates, level)
    return Estimate(value) if value is None or found is None else Estimate(value, *found)


def _mean_replicates(results: Sequence[Result]) -> NDArray[np.float64] | None:
    """Average the replicates of the benchmarks, which were drawn independently; None where some has none."""
    found = [result.replicates.mean.get("bal_acc") for result in results]
    known = [array for array in found if array is not None]
    return np.mean(known, axis=0) if known and len(known) == len(found) else None


def _pooled(results: Sequence[Result], level: float) -> Estimate:
    """Return the balanced accuracy over the images of several benchmarks together."""
    value, replicates = 0.0, None
    for metric, size in (("real_acc", "reals"), ("fake_acc", "fakes")):
        shares = [(getattr(result.pooled, size), result) for result in results if getattr(result.pooled, size)]
        total = sum(count for count, _ in shares)
        if not total:
            return Estimate(None)
        value += sum(count * (result.pooled.metrics[metric].value or 0.0) for count, result in shares) / total / 2
        arrays = [result.replicates.pooled.get(metric) for _, result in shares]
        weighted = [count / total / 2 * array for (count, _), array in zip(shares, arrays, strict=True) if array is not None]
        if len(weighted) == len(arrays):
            replicates = np.sum(weighted, axis=0) if replicates is None else replicates + np.sum(weighted, axis=0)
    return _estimate(value, replicates, level)
