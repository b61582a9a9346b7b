"""The data check: which benchmarks are on disk, in which layout, and what is wrong with them. Loads no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from mirror_pl.benchmarks import BenchmarkIndex, benchmark_names, index_benchmark, load_manifest
from mirror_pl.benchmarks.inspect import find_duplicates, inspect_subsets
from mirror_pl.config.build import label_table, manifest_of
from mirror_pl.config.schema import CheckDataSettings, read_settings
from mirror_pl.errors import BenchmarkAbsentError, DataError, IncompleteRunError
from mirror_pl.files import write_text
from mirror_pl.images import IMAGE_SUFFIXES, UndecodableImageError, decode
from mirror_pl.images.file_facts import file_facts
from mirror_pl.jobs.confounds import LOOKED_AT, audit_subset, drawn
from mirror_pl.reports import print_plain
from mirror_pl.reports.confounds import SubsetAudit, print_audits
from mirror_pl.reports.data_check import DataCheck, print_check
from mirror_pl.sources.place import path_of
from mirror_pl.sources.source import ImageSource
from mirror_pl.texts import storable

Result = TypeVar("Result")

NOT_LOOKED_FOR = ("miniature", "folder")
"""Options of ``benchmark=`` that are no public benchmark."""


def run(cfg: DictConfig) -> None:
    """Check as `cfg` says.

    Raises:
        DataError: If nothing of what was asked for is there.
        IncompleteRunError: After everything was printed, if a benchmark that is there is incomplete or unsound.
    """
    settings = read_settings(cfg, CheckDataSettings)
    console = Console()
    root = path_of(settings.data_root)
    reals = None if settings.reals is None else path_of(settings.reals)
    labels = label_table(settings.labels, "labels")
    chosen = cfg.get("benchmark")
    if chosen is not None:
        manifests = [manifest_of(chosen)]
    else:
        manifests = [load_manifest(name) for name in benchmark_names() if name not in NOT_LOOKED_FOR]
    checks: list[DataCheck] = []
    absent: dict[str, str] = {}
    for manifest in manifests:
        try:
            index = index_benchmark(manifest, root, IMAGE_SUFFIXES, reals=reals, labels=labels)
        except BenchmarkAbsentError as error:
            if chosen is not None:
                raise
            absent[manifest.name] = error.note
            continue
        undecodable = _undecodable(index, console) if settings.decode else None
        audits = _audits(index, console) if settings.audit else None
        check = DataCheck(index, inspect_subsets(index), find_duplicates(index), undecodable, audits)
        print_check(check, console)
        if audits is not None:
            print_audits(manifest, audits, LOOKED_AT, console)
        checks.append(check)
    for note in absent.values():
        print_plain(note, console)
    if settings.json_file is not None:
        content = {"data_root": str(root.resolve()), "benchmarks": [check.as_json() for check in checks]}
        content |= {"absent": list(absent)}
        write_text(Path(settings.json_file), json.dumps(content, indent=2) + "\n")
    if not checks:
        raise DataError(f"data_root: no benchmark is in {root}; data/README.md says where each is expected")
    unsound = [f"{check.index.manifest.name}: {', '.join(check.problems)}" for check in checks if check.problems]
    if unsound:
        raise IncompleteRunError("\n".join(unsound))


def _undecodable(index: BenchmarkIndex, console: Console) -> dict[str, str]:
    """Decode every image, in parallel, and return the reason of each that cannot be."""
    reasons = _of_each(_reason, index, range(len(index)), "Decoding", console)
    return {storable(index.paths[image]): reason for image, reason in reasons.items() if reason is not None}


def _audits(index: BenchmarkIndex, console: Console) -> list[SubsetAudit]:
    """Read where files begin, in parallel, and see what that tells of their labels."""
    chosen = {name: images.tolist() for name, images in drawn(index).items()}
    facts = _of_each(file_facts, index, sorted(set().union(*chosen.values())), "Reading files of", console)
    watched = track(chosen.items(), f"Auditing {index.manifest.title}", console=console)
    return [audit_subset(index, name, images, facts) for name, images in watched]


def _of_each(
    function: Callable[[ImageSource], Result], index: BenchmarkIndex, images: Sequence[int], doing: str, console: Console
) -> dict[int, Result]:
    """Return what a function makes of each image's source, by id; in as many processes as there are cores."""
    with ProcessPoolExecutor() as processes:
        results: Iterable[Result] = processes.map(function, map(index.source, images), chunksize=16)
        watched = track(results, f"{doing} {index.manifest.title}", total=len(images), console=console)
        return dict(zip(images, watched, strict=True))


def _reason(source: ImageSource) -> str | None:
    try:
        decode(source)
    except UndecodableImageError as error:
        return str(error)
    return None
