"""Which of a benchmark's files are on disk, under which subset and label. Lists names; opens no image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirror_pl.benchmarks.manifest import Layout, Manifest
from mirror_pl.errors import DataError, name_list

EXAMPLES = 3
"""Paths kept as examples of what was passed over."""


@dataclass
class PassedOver:
    """Files that were seen but are no samples, counted by reason, with a few examples of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Count one more file passed over for `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(path)


@dataclass(frozen=True)
class BenchmarkIndex:
    """The samples of a benchmark, in a fixed order: by subset as in the manifest, then by path.

    Attributes:
        manifest: The benchmark.
        data_root: Folder that `paths` are relative to.
        paths: One a sample, with forward slashes; a sample's id is its position here.
        labels: ``(S,)`` int8, 0 real and 1 fake.
        subset_ids: ``(S,)`` int32, position in the manifest's subsets.
        sizes: ``(S,)`` int64, bytes; -1 where a file's size cannot be read.
        missing: Why a subset of the manifest has no sample, by its name.
        passed_over: Files below the subsets that are no samples: other suffixes, or outside any label's folder.
        unreadable: Why a folder could not be listed, by its path; its files are unknown.
    """

    manifest: Manifest
    data_root: Path
    paths: list[str]
    labels: NDArray[np.int8]
    subset_ids: NDArray[np.int32]
    sizes: NDArray[np.int64]
    missing: Mapping[str, str]
    passed_over: PassedOver
    unreadable: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Subsets that have samples, in report order."""
        return tuple(name for name in self.manifest.subsets if name not in self.missing)

    def fingerprint(self) -> str:
        """SHA-256 over every sample's path, size, label and subset: equal for equal data, whatever the machine."""
        digest = hashlib.sha256()
        names = self.manifest.subsets
        for path, size, label, subset in zip(self.paths, self.sizes, self.labels, self.subset_ids, strict=True):
            digest.update(f"{path}\0{size}\0{label}\0{names[subset]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def index_benchmark(manifest: Manifest, data_root: Path, suffixes: Set[str]) -> BenchmarkIndex:
    """List the samples of a benchmark below `data_root`.

    Args:
        manifest: The benchmark.
        data_root: Folder that holds the benchmark's folder.
        suffixes: File suffixes of images, lower case, with the dot; the case of a file's own suffix does not matter.

    Raises:
        DataError: If `data_root`, the benchmark's folder, or every subset is missing, with the expected tree.
    """
    if not data_root.is_dir():
        kind = "is a file, not a folder" if data_root.exists() else "does not exist"
        raise DataError(f"data_root: {data_root} {kind}; give the folder that holds the benchmarks as data_root=FOLDER")
    layout = manifest.layout
    folder = data_root / layout.folder
    if not folder.is_dir():
        raise DataError(_no_folder(manifest, layout, data_root))

    walk = _Walk(data_root, layout, suffixes)
    missing: dict[str, str] = {}
    for position, (name, subset_folder) in enumerate(layout.subsets.items()):
        path = folder / subset_folder
        before = len(walk.paths)
        if not path.is_dir():
            missing[name] = f"no folder {path}"
            continue
        walk.subset(position, path)
        if len(walk.paths) == before:
            missing[name] = f"no image in a folder {' or '.join(layout.labels)} below {path}"
    if not walk.paths:
        seen = f" Passed over: {walk.passed_over.counts}." if walk.passed_over.counts else ""
        raise DataError(
            f"{manifest.title}: none of its {len(missing)} subsets has an image in {folder}.{seen} Expected:\n"
            f"{layout.draw(str(data_root))}"
        )
    return BenchmarkIndex(
        manifest=manifest,
        data_root=data_root,
        paths=walk.paths,
        labels=np.array(walk.labels, dtype=np.int8),
        subset_ids=np.array(walk.subset_ids, dtype=np.int32),
        sizes=np.array(walk.sizes, dtype=np.int64),
        missing=missing,
        passed_over=walk.passed_over,
        unreadable=walk.unreadable,
    )


class _Walk:
    """The walk over one benchmark's subsets; folders are listed once, in the order of their names."""

    def __init__(self, data_root: Path, layout: Layout, suffixes: Set[str]) -> None:
        self.data_root = data_root
        self.layout = layout
        self.suffixes = suffixes
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.subset_ids: list[int] = []
        self.sizes: list[int] = []
        self.passed_over = PassedOver()
        self.unreadable: dict[str, str] = {}

    def subset(self, position: int, folder: Path) -> None:
        relative = folder.relative_to(self.data_root).as_posix()
        for path, label, entry in self._files(str(folder), relative, None, ()):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix not in self.suffixes:
                self.passed_over.add(f"suffix {suffix or '(none)'}", path)
            elif label is None:
                self.passed_over.add(f"in no folder {' or '.join(self.layout.labels)}", path)
            else:
                self.paths.append(path)
                self.labels.append(label)
                self.subset_ids.append(position)
                self.sizes.append(_size(entry))

    def _files(
        self, folder: str, relative: str, label: int | None, above: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, int | None, os.DirEntry[str]]]:
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above:  # a symbolic link to a folder above: everything in it is seen there
                return
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable[relative] = error.strerror or str(error)
            return
        for entry in ordered:
            path = entry.name if relative == "." else f"{relative}/{entry.name}"
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link to itself, or into a folder that may not be searched
                if os.path.splitext(entry.name)[1].lower() not in self.suffixes:
                    self.unreadable[path] = error.strerror or str(error)
                    continue
                is_folder = False
            if not is_folder:
                yield path, label, entry
                continue
            if os.path.splitext(entry.name)[1].lower() in self.suffixes:
                yield path, label, entry  # a folder named like an image: a sample that will be found undecodable
            inner = self.layout.labels.get(entry.name, label)
            yield from self._files(entry.path, path, inner, (*above, here))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1


def _no_folder(manifest: Manifest, layout: Layout, data_root: Path) -> str:
    """Say what is missing, and whether the subsets lie where the user may have meant."""
    misplaced = [name for name, folder in layout.subsets.items() if folder != "." and (data_root / folder).is_dir()]
    found = f"none of its subsets is in {data_root} either"
    if misplaced:
        found = f"its subsets {name_list(misplaced)} are in {data_root} itself: put them into {layout.folder}/ there"
        if data_root.resolve().match(layout.folder):
            above = data_root.resolve().parents[len(Path(layout.folder).parts) - 1]
            found = f"its subsets {name_list(misplaced)} are in {data_root} itself: give data_root={above}"
    return (
        f"{manifest.title}: no folder {layout.folder} in {data_root}; {found}. Expected:\n{layout.draw(str(data_root))}\n"
        f"To get it: {manifest.how_to_get}"
    )
