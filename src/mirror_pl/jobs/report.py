"""The report job: finished evaluation runs, one at a time, into tables, comparisons and a page. Loads no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from mirror_pl.config.schema import ReportSettings, read_settings
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError, name_list, nearest
from mirror_pl.files import whole_folder, write_text
from mirror_pl.jobs.run_images import Thumbnails
from mirror_pl.reports import print_plain
from mirror_pl.reports.detector_names import DetectorKey, key_of, latest_runs, name_detectors
from mirror_pl.reports.gathered_runs import GatheredRun, sort_runs
from mirror_pl.reports.html_page import html_page
from mirror_pl.reports.leaderboard import EVERYTHING, Benchmark, Comparison, IncompleteRun, Leaderboard, Result, in_order
from mirror_pl.reports.leaderboard_file import CONFLICT, Claim, claim_of, leaderboard_csv, merge, read_leaderboard
from mirror_pl.reports.leaderboard_markup import latex, markdown
from mirror_pl.reports.leaderboard_text import as_json, comparisons_csv, metrics_csv, print_leaderboard, table_csv
from mirror_pl.reports.measure import SharedThreshold, apply_to, fit_on, measure
from mirror_pl.reports.report_notes import notes_on_detectors, notes_on_images, notes_on_results, notes_on_runs
from mirror_pl.reports.robustness import SuiteResult, read_result, write_results
from mirror_pl.reports.run_figures import RunFigures, run_figures
from mirror_pl.scores.paired import compare, compare_many
from mirror_pl.texts import printable

Chosen = Mapping[tuple[str, str], GatheredRun]
"""The run that counts, by benchmark and detector's label, in the order of the report."""


def run(cfg: DictConfig) -> None:
    """Report as `cfg` says.

    Raises:
        MirrorError: Before anything is written, if settings or runs are not usable; after everything was written, an
            `IncompleteRunError`, if a run that was given is not complete.
    """
    settings = read_settings(cfg, ReportSettings)
    console = Console()
    output = Path(settings.output_dir)
    if output.exists():
        raise ConfigError(f"output_dir: {output} exists already; give another output_dir=FOLDER")
    given = [Path(path) for path in settings.runs]
    files = [path for path in given if path.suffix == ".csv" and path.is_file()]
    claims = [claim for path in files for claim in read_leaderboard(path)]
    if len(files) == len(given):
        raise ConfigError("runs: only leaderboard files are named; give a run folder, or one above runs, beside them")
    complete, stopped = sort_runs([path for path in given if path not in files])
    incomplete = tuple(
        IncompleteRun(run.benchmark, run.title, run.checkpoint, printable(run.folder), run.scored) for run in stopped
    )
    latest, passed_over = latest_runs(complete)
    detectors = name_detectors(complete)
    labels = {detector.key: detector.label for detector in detectors}
    compared = _compared(settings, list(labels.values()))
    benchmarks = in_order([Benchmark(run.benchmark, run.title, run.group) for run in complete])
    chosen = {
        (benchmark.name, detector.label): run
        for benchmark in benchmarks
        for detector in detectors
        if (run := latest.get((detector.key, benchmark.name))) is not None
    }
    thresholds, threshold_notes = _thresholds(settings, chosen, list(labels.values()))

    results: dict[tuple[str, str], Result] = {}
    figures: dict[tuple[str, str], RunFigures] = {}
    by_label = {detector.label: detector for detector in detectors}
    for (benchmark_name, label), one in track(chosen.items(), "Measuring", console=console, transient=True):
        table = one.read()  # one at a time: a million rows take a hundred megabytes
        at_threshold = apply_to(thresholds[label], one, table) if label in thresholds else {}
        results[benchmark_name, label] = measure(
            one,
            table,
            by_label[label],
            at_threshold,
            replicates=settings.replicates,
            seed=settings.seed,
            level=settings.level,
        )
        figures[benchmark_name, label] = run_figures(table, settings.worst)
    board = Leaderboard(
        detectors=tuple(detectors),
        benchmarks=benchmarks,
        results=results,
        threshold_from=settings.threshold_from,
        thresholds={label: threshold.fitted for label, threshold in thresholds.items()},
        comparisons=tuple(_comparisons(chosen, benchmarks, compared, settings)),
        incomplete=incomplete,
        notes=(
            *notes_on_detectors(detectors),
            *notes_on_results(benchmarks, results, settings.level),
            *notes_on_images(chosen, benchmarks),
            *threshold_notes,
            *notes_on_runs(passed_over, incomplete, labels),
        ),
        level=settings.level,
        replicates=settings.replicates,
        seed=settings.seed,
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    claims = merge([*(claim_of(run, results[key], settings.level) for key, run in chosen.items()), *claims])
    _write(board, figures, chosen, _suites(complete, labels), claims, output, settings)
    print_leaderboard(board, console)
    print_plain(f"Report: {output / 'report.html'}", console)
    if (output / "robustness.html").exists():
        print_plain(f"Robustness: {output / 'robustness.html'}", console)
    conflicts = sum(claim.mark == CONFLICT for claim in claims)
    if conflicts:
        print_plain(
            f"{conflicts} rows of {output / 'leaderboard.csv'} contradict each other, and are marked there.", console
        )
    if incomplete:
        raise IncompleteRunError(
            f"{len(incomplete)} of {len(complete) + len(incomplete)} runs are not complete, and in no figure: "
            f"{name_list(run.folder for run in incomplete)}. Go on with one by its own command and resume=true. "
            f"The report is in {output}"
        )


def _compared(settings: ReportSettings, labels: Sequence[str]) -> list[str]:
    """Return the detectors to compare in pairs; their order is that of the report."""
    if settings.compare is None:
        return list(labels)
    for label in settings.compare:
        if label not in labels:
            raise ConfigError(
                f"compare: there is no detector {label}.{nearest(label, labels)} There are: {', '.join(labels)}"
            )
    return [label for label in settings.compare if label in labels]


def _thresholds(
    settings: ReportSettings, chosen: Chosen, labels: Sequence[str]
) -> tuple[dict[str, SharedThreshold], list[str]]:
    """Fit each detector's threshold on the set that ``threshold_from`` names, and say for which there is none.

    Raises:
        ConfigError: If no detector was run on that set.
    """
    wanted = settings.threshold_from
    if wanted is None:
        return {}, []
    names = list(dict.fromkeys(name for name, _ in chosen))
    # A benchmark's name may hold a slash itself: that of a folder of one's own is its path.
    benchmark = max((name for name in names if wanted == name or wanted.startswith(f"{name}/")), key=len, default=None)
    if benchmark is None:
        hint = nearest(wanted.split("/")[0], names)
        raise ConfigError(f"threshold_from: no run on {wanted}.{hint} There are runs on {name_list(names, 30)}")
    subset = wanted[len(benchmark) + 1 :] or None
    fitted: dict[str, SharedThreshold] = {}
    notes = [
        f"Thresholds were fitted on {wanted}; sets that share an image with it are “-” at the fitted threshold, and so are "
        "benchmarks with such a subset."
    ]
    for label in labels:
        run = chosen.get((benchmark, label))
        if run is None:
            notes.append(f"{label} was not run on {benchmark}, and has no fitted threshold.")
            continue
        try:
            fitted[label] = fit_on(run, subset)
        except DataError as error:
            notes.append(f"{label} has no fitted threshold: {error}.")
    return fitted, notes


def _comparisons(
    chosen: Chosen, benchmarks: Sequence[Benchmark], labels: Sequence[str], settings: ReportSettings
) -> Iterator[Comparison]:
    """Compare each two detectors on each benchmark that both were run on, and on all of these together."""
    for first, second in combinations(labels, 2):
        common = [b.name for b in benchmarks if (b.name, first) in chosen and (b.name, second) in chosen]
        pairs = _Pairs([(chosen[name, first], chosen[name, second]) for name in common])
        options: dict[str, Any] = {"replicates": settings.replicates, "seed": settings.seed, "level": settings.level}
        for name, (one, other) in zip(common, pairs, strict=True):
            yield Comparison(name, first, second, compare(one, other, **options))
        if len(common) > 1:
            yield Comparison(EVERYTHING, first, second, compare_many(pairs, **options))


class _Pairs(Sequence[tuple[pa.Table, pa.Table]]):
    """The tables of pairs of runs, read when they are looked at, so that those of one pair are in memory at a time."""

    def __init__(self, runs: Sequence[tuple[GatheredRun, GatheredRun]]) -> None:
        self._runs = runs

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, place: int) -> tuple[pa.Table, pa.Table]: ...
    @overload
    def __getitem__(self, place: slice) -> _Pairs: ...
    def __getitem__(self, place: int | slice) -> tuple[pa.Table, pa.Table] | _Pairs:
        if isinstance(place, slice):
            return _Pairs(self._runs[place])
        first, second = self._runs[place]
        return first.read(), second.read()


def _suites(runs: Sequence[GatheredRun], labels: Mapping[DetectorKey, str]) -> list[SuiteResult]:
    """Return what the runs of suites have come to, called as the report calls them; of equal ones, the latest."""
    latest: dict[tuple[str, str, str], SuiteResult] = {}
    for run in sorted(runs, key=lambda run: run.finished):
        result = read_result(run.folder, labels[key_of(run)], run.title)
        if result is not None:
            latest[result.suite, run.benchmark, result.detector] = result
    return list(latest.values())


def _write(
    board: Leaderboard,
    figures: Mapping[tuple[str, str], RunFigures],
    chosen: Chosen,
    suites: Sequence[SuiteResult],
    claims: Sequence[Claim],
    output: Path,
    settings: ReportSettings,
) -> None:
    """Write the report's folder, whole or not at all."""
    thumbnails = Thumbnails()
    roots = {printable(run.folder.resolve()): run.data_root for run in chosen.values()}
    shown = [(board.results[key].folder, image) for key, drawn in figures.items() for image in drawn.worst]
    # The surest errors of each run first: where the page would get too large, the others go without.
    shown.sort(key=lambda pair: -abs(pair[1].logit))
    pictures = (
        {(folder, image): thumbnails.of(roots[folder], image.path) for folder, image in shown} if settings.images else {}
    )
    content = as_json(board)
    content["runs"] = [str(Path(path).resolve()) for path in settings.runs]
    content["worst"] = [
        {"benchmark": name, "detector": label, "errors": drawn.errors, "images": [vars(image) for image in drawn.worst]}
        for (name, label), drawn in figures.items()
    ]
    content["selective"] = [
        {"benchmark": name, "detector": label, "aurc": drawn.aurc} for (name, label), drawn in figures.items()
    ]
    with whole_folder(output) as folder:
        if suites:
            write_results(suites, folder)
        write_text(folder / "report.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
        write_text(folder / "table.csv", table_csv(board))
        write_text(folder / "metrics.csv", metrics_csv(board))
        write_text(folder / "leaderboard.csv", leaderboard_csv(claims))
        write_text(folder / "comparisons.csv", comparisons_csv(board))
        write_text(folder / "report.md", markdown(board))
        write_text(folder / "report.tex", latex(board))
        page, charts = html_page(board, figures, pictures, robustness=bool(suites))
        write_text(folder / "report.html", page)
        (folder / "figures").mkdir(exist_ok=True)
        for chart in charts:
            write_text(folder / "figures" / f"{chart.name}.svg", chart.svg)
            write_text(folder / "figures" / f"{chart.name}.csv", chart.csv)
