"""What a reader of a report must know beside its numbers, each in a sentence. Names from disk stand in them as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from mirror_pl.errors import name_list
from mirror_pl.reports.detector_names import PUBLISHED_PROTOCOL, DetectorKey, DetectorName, key_of
from mirror_pl.reports.gathered_runs import GatheredRun
from mirror_pl.reports.leaderboard import GROUPS, Benchmark, IncompleteRun, Result, Row, group_mean, grouped
from mirror_pl.reports.number_format import NAMES, percent
from mirror_pl.scores import COPIED_RELEASE, smallest_fpr
from mirror_pl.scores.extended import FPR
from mirror_pl.texts import printable

PARTIAL = "†"
"""Marks a mean over less than all that it should be a mean over."""

TOO_FEW = "‡"
"""Marks a figure at a false positive rate that the number of reals does not allow one to claim."""


def notes_on_detectors(detectors: Sequence[DetectorName]) -> list[str]:
    """Say which detectors are not what a reader takes them for."""
    small = [detector.label for detector in detectors if detector.miniature]
    said = "is the miniature" if len(small) == 1 else "are of the miniature"
    notes = [f"{name_list(small)} {said}: a small detector of small decoders, and none for the real world."] if small else []
    notes += [
        f"{detector.label}: run with compat=published, on the images that {COPIED_RELEASE} looks at. Its figures are "
        "computed from its predictions, without that script's stand-ins for what is undefined."
        for detector in detectors
        if PUBLISHED_PROTOCOL in detector.key.variant
    ]
    return notes


def notes_on_runs(
    passed_over: Iterable[tuple[GatheredRun, GatheredRun]],
    incomplete: Iterable[IncompleteRun],
    labels: Mapping[DetectorKey, str],
) -> list[str]:
    """Say which runs are in no figure, and why.

    Args:
        passed_over: Runs that a later one replaces, with that one.
        incomplete: Runs without ``run.json``.
        labels: Of the detectors.
    """
    notes = [
        f"{labels[key_of(run)]} was run on {run.title} more than once: the run in {printable(counts.folder)}, finished "
        f"{counts.finished:%Y-%m-%d %H:%M}, counts; that in {printable(run.folder)} does not."
        for run, counts in passed_over
    ]
    for run in incomplete:
        scored = f" {run.scored:,} images have a score so far." if run.scored else ""
        notes.append(f"The run on {run.title} in {run.folder} is not complete, and in no figure.{scored}")
    return notes


def notes_on_results(benchmarks: Sequence[Benchmark], results: Mapping[tuple[str, str], Result], level: float) -> list[str]:
    """Say what the means are not over, for each result and each group."""
    titles = {benchmark.name: benchmark.title for benchmark in benchmarks}
    notes = []
    for result in results.values():
        where = f"{titles[result.benchmark]}, {result.detector}"
        if result.is_partial:
            entered = result.mean_rows["bal_acc"]
            parts = [f"{PARTIAL} {where}: the mean is over {entered} of {result.subsets} subsets"]
            parts += [f"not on disk: {name_list(result.missing)}"] if result.missing else []
            parts += [f"without scored images of both classes: {name_list(result.undefined)}"] if result.undefined else []
            notes.append("; ".join(parts) + ".")
        if result.pooled.unscored:
            images = "image has" if result.pooled.unscored == 1 else "images have"
            notes.append(f"{where}: {result.pooled.unscored:,} {images} no score and {_be(result)} in no figure.")
    labels = list(dict.fromkeys(label for _, label in results))
    groups = grouped(benchmarks)
    for group, found in [*groups.items(), *([("All benchmarks", benchmarks)] if len(groups) > 1 else [])]:
        for label in labels if len(found) > 1 else ():
            mean = group_mean([results.get((benchmark.name, label)) for benchmark in found], level)
            if 0 < mean.entered < mean.of:
                lacking = [b.title for b in found if (r := results.get((b.name, label))) is None or r.headline.value is None]
                notes.append(
                    f"{PARTIAL} {GROUPS.get(group, group)}, {label}: the mean is over {mean.entered} of {mean.of} "
                    f"benchmarks, without {name_list(lacking, 20)}."
                )
    notes += _notes_on_fpr(results)
    if any(_is_point(result) for result in results.values()):
        notes.append(
            "An interval of no width comes from a set on which all decisions are right, or all are wrong: no draw of its "
            "images differs. It does not say that the error is known; with n images of a class and none wrong, rates of "
            "error up to about 3 / n are within 95 %."
        )
    return notes


def notes_on_images(runs: Mapping[tuple[str, str], GatheredRun], benchmarks: Sequence[Benchmark]) -> list[str]:
    """Say where detectors were not run on the same files, as far as the runs' fingerprints tell."""
    notes = []
    for benchmark in benchmarks:
        prints = {
            label: (run.facts or {})["data"].get("fingerprint")
            for (name, label), run in runs.items()
            if name == benchmark.name
        }
        if len(set(prints.values())) > 1:
            notes.append(
                f"{benchmark.title}: the detectors were not run on the same files; the fingerprints of the data differ. "
                "What is compared in pairs are the images that both have."
            )
    return notes


def beyond_claim(row: Row, metric: str) -> bool:
    """Whether a metric allows a false positive rate so small that the row's reals could not show it, were all right."""
    return metric in FPR and row.metrics[metric].value is not None and smallest_fpr(row.reals) > FPR[metric]


def _notes_on_fpr(results: Mapping[tuple[str, str], Result]) -> list[str]:
    """Say which true positive rates are at a false positive rate that cannot be claimed, and what it would take."""
    rows = [row for result in results.values() for row in (*result.rows, result.pooled)]
    notes = []
    for name, fpr in FPR.items():
        found = [row for row in rows if beyond_claim(row, name)]
        if found:
            most = max(row.reals for row in found)
            needed = next(n for n in count(int(1 / fpr)) if smallest_fpr(n) <= fpr)
            notes.append(
                f"{TOO_FEW} {NAMES[name]} stands on fewer than {needed:,} reals in {len(found)} of {len(rows)} rows: "
                f"with none of them decided fake, an FPR of {100 * fpr:g} % could not be claimed at 95 %. The "
                f"{most:,} reals of the largest of these rows allow {percent(smallest_fpr(most), 2)} % at best."
            )
    return notes


def _be(result: Result) -> str:
    return "is" if result.pooled.unscored == 1 else "are"


def _is_point(result: Result) -> bool:
    return any(
        estimate.low is not None and estimate.low == estimate.high
        for row in (*result.rows, result.pooled)
        for estimate in (row.metrics["bal_acc"],)
    )
