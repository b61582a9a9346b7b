"""Which of a benchmark's images are on disk, in which layout, under which subset and label, and paired with which reals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mirror_pl.benchmarks.label_rows import LabelRows
from mirror_pl.benchmarks.labelling import LabelledFolder, class_of, labels_of, labels_of_reals
from mirror_pl.benchmarks.manifest import USER_REALS, LabelTable, Layout, Manifest
from mirror_pl.errors import BenchmarkAbsentError, DataError, name_list
from mirror_pl.labels import REAL
from mirror_pl.sources.folder import Folder
from mirror_pl.sources.listed import Listed, PassedOver
from mirror_pl.sources.walk import Walk, find_folder
from mirror_pl.sources.walk_cache import cached_walk
from mirror_pl.texts import Texts

Integer = TypeVar("Integer", np.int8, np.int32)


@dataclass(frozen=True)
class BenchmarkIndex(Listed):
    """The images of a benchmark, each once, in a fixed order: by group as in the manifest, then by path.

    Attributes:
        manifest: The benchmark.
        data_root: Folder that `paths` are relative to; those of reals that a user named elsewhere are absolute.
        group_ids: ``(S,)`` int32, position in the manifest's groups: a subset, or a set of shared reals.
        class_names: Names that `class_ids` point into, sorted; "" for none.
        class_ids: ``(S,)`` int32: the folder between its subset and its label's folder that an image lies in, as in
            ``progan/horse/0_real``.
        layouts: Layout that each subset was found in, by its name.
        pairs: Group of shared reals that each subset was paired with, by its name.
        missing: Why a subset has no sample, by its name.
        passed_over: Files below the subsets that are no samples: other suffixes, or without a label; and rows of a table of
            labels without an image.
        unreadable: Why a folder could not be listed, by its path; its files are unknown.
    """

    manifest: Manifest
    data_root: Path
    group_ids: NDArray[np.int32]
    class_names: tuple[str, ...]
    class_ids: NDArray[np.int32]
    layouts: Mapping[str, str]
    pairs: Mapping[str, str]
    missing: Mapping[str, str]
    passed_over: PassedOver
    unreadable: Mapping[str, str]

    @property
    def subsets(self) -> tuple[str, ...]:
        """Subsets that have samples, in report order."""
        return tuple(self.layouts)

    @property
    def all_subsets(self) -> tuple[str, ...]:
        """Subsets with and without samples, in the manifest's order."""
        return tuple(name for name in self.manifest.subsets if name in self.layouts or name in self.missing)

    def base(self, image: int) -> Path:  # noqa: ARG002 - one for all
        """Return `data_root`."""
        return self.data_root

    def members(self) -> NDArray[np.bool_]:
        """Return ``(subsets, groups)``: whether the images of a group count in a subset."""
        groups = self.manifest.groups
        result = np.zeros((len(self.subsets), len(groups)), bool)
        for position, name in enumerate(self.subsets):
            result[position, groups.index(name)] = True
            if name in self.pairs:
                result[position, groups.index(self.pairs[name])] = True
        return result

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return one entry per image and subset: the image's id and the position in `subsets`, by subset, then by id."""
        ids, positions = [], []
        for position, member in enumerate(self.members()):
            here = np.flatnonzero(member[self.group_ids])
            ids.append(here)
            positions.append(np.full(len(here), position, np.int32))
        return np.concatenate(ids), np.concatenate(positions)

    def fingerprint(self) -> str:
        """SHA-256 over every image's path, size, label and group: equal for equal data, whatever the machine."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest, names = hashlib.sha256(), self.manifest.groups
        columns = zip(self.paths, self.sizes_to_tell_by(), self.labels.tolist(), self.group_ids.tolist(), strict=True)
        while rows := [f"{path}\0{size}\0{label}\0{names[group]}\n" for path, size, label, group in islice(columns, 2**14)]:
            digest.update("".join(rows).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def index_benchmark(
    manifest: Manifest,
    data_root: Path,
    suffixes: Set[str],
    *,
    pair: bool = True,
    reals: Path | None = None,
    cache: Path | None = None,
    labels: LabelTable | None = None,
) -> BenchmarkIndex:
    """Find the images of a benchmark below `data_root`, in whichever known layout they are.

    Args:
        manifest: The benchmark.
        data_root: Folder that holds the benchmark's folder.
        suffixes: File suffixes of images, lower case, with the dot; the case of a file's own suffix does not matter.
        pair: Pair subsets that have only fakes with shared reals, where there are any. The published code does not.
        reals: Folder of real images for those subsets, instead of the benchmark's own.
        cache: Folder to keep listings in; see `cached_walk`.
        labels: What labels the images, in place of what the manifest says; not those of `reals` and shared reals.

    Raises:
        DataError: If `data_root` or `reals` is missing, or a table of labels is not usable.
        BenchmarkAbsentError: If nothing of the benchmark is there, with the expected tree.
    """
    for key, folder in (("data_root", data_root), ("reals", reals)):
        if folder is not None and not folder.is_dir():
            kind = "is a file, not a folder" if folder.exists() else "does not exist"
            raise DataError(f"{key}: {folder} {kind}; give the folder that holds the images as {key}=FOLDER")
    layouts = manifest.layouts
    if labels is not None:
        if labels.file is None and any(layout.subset_column is not None for layout in layouts.values()):
            raise DataError(f"labels: {manifest.name} has its subsets in a table; give it as labels.file=FILE.csv")
        layouts = {name: replace(layout, table=labels) for name, layout in layouts.items()}
    return _Search(manifest, layouts, data_root, suffixes, pair, cache).run(reals)


@dataclass(frozen=True)
class _Found:
    """A subset in one of its layouts, and its images by label."""

    layout_name: str
    layout: Layout
    walk: Walk
    parts: list[LabelledFolder]

    @property
    def images(self) -> int:
        return sum(len(part.folder.names) for part in self.parts if part.label is not None)

    def has(self, wanted: int) -> bool:
        return any(part.folder.names and part.label == wanted for part in self.parts)


@dataclass(frozen=True)
class _Column:
    """A folder's images, which share everything but path, size and time."""

    paths: list[str]
    group: int
    label: int
    class_name: str
    sizes: list[int]
    mtimes: list[int]
    shard: str
    offsets: list[int]


class _Search:
    """One search for a benchmark; each folder is listed once, whichever layouts it may belong to."""

    def __init__(
        self,
        manifest: Manifest,
        layouts: Mapping[str, Layout],
        data_root: Path,
        suffixes: Set[str],
        pair: bool,
        cache: Path | None,
    ) -> None:
        self.manifest = manifest
        self.layouts = layouts
        self.data_root = data_root
        self.suffixes = suffixes
        self.pair = pair
        self.cache = cache
        self.skip = {name.lower() for name in manifest.skip}
        self.walks: dict[tuple[Path, bool, str | None], Walk] = {}
        self.labelled: dict[tuple[Path, str, str | None], _Found] = {}
        self.rows: dict[str, LabelRows] = {}
        self.passed_over = PassedOver()
        self.unreadable: dict[str, str] = {}
        self.columns: list[_Column] = []

    def run(self, reals: Path | None) -> BenchmarkIndex:
        found, missing = self._subsets()
        if not found:
            note = f"absent: {self.manifest.name} - {self.manifest.how_to_get}"
            raise BenchmarkAbsentError(self._nothing_found(), note)
        if reals is not None and not self._has_reals(reals):
            raise DataError(f"reals: no image in {reals}; give a folder of real images as reals=FOLDER")
        shared = self._shared(found, reals) if self.pair else {}
        groups = self.manifest.groups
        for name, subset in found.items():
            self._add(groups.index(name), subset.walk, subset.parts, subset.layout)
        for group in dict.fromkeys(shared.values()):
            folder = self._shared_folder(group, reals)
            if folder is not None:
                listed = self._walk_reals(folder)
                self._add(groups.index(group), listed, labels_of_reals(listed), None)
        for rows in self.rows.values():
            for key in rows.unused:
                self.passed_over.add(f"a row in {rows.name} but no image", key)
        classes = tuple(sorted({column.class_name for column in self.columns}))
        shards = {"": -1} | {
            shard: number for number, shard in enumerate(dict.fromkeys(c.shard for c in self.columns if c.shard))
        }
        return BenchmarkIndex(
            manifest=self.manifest,
            data_root=self.data_root,
            paths=Texts(path for column in self.columns for path in column.paths),
            labels=_column(((column.label, len(column.paths)) for column in self.columns), np.int8),
            group_ids=_column(((column.group, len(column.paths)) for column in self.columns), np.int32),
            sizes=np.concatenate([np.array(column.sizes, np.int64) for column in self.columns]),
            mtimes=np.concatenate([np.array(column.mtimes, np.int64) for column in self.columns]),
            shards=tuple(shards)[1:],
            shard_ids=_column(((shards[column.shard], len(column.paths)) for column in self.columns), np.int32),
            offsets=np.concatenate([np.array(column.offsets, np.int64) for column in self.columns]),
            class_names=classes,
            class_ids=_column(((classes.index(c.class_name), len(c.paths)) for c in self.columns), np.int32),
            layouts={name: subset.layout_name for name, subset in found.items()},
            pairs=shared,
            missing=missing,
            passed_over=self.passed_over,
            unreadable=self.unreadable,
        )

    def _subsets(self) -> tuple[dict[str, _Found], dict[str, str]]:
        """Find each subset. The first layout that holds any decides which subsets there are; others may fill its gaps."""
        names: tuple[str, ...] = ()
        main = ""
        for main, layout in self.layouts.items():  # used after the loop
            names = tuple(layout.subsets)
            if any(self._find(name, main) for name in names):
                break
        if self.pair:
            names = tuple(name for name in names if name not in self.manifest.published_rows)
        found: dict[str, _Found] = {}
        missing: dict[str, str] = {}
        for name in names:
            subset = next(filter(None, (self._find(name, layout) for layout in self.layouts)), None)
            if subset is not None:
                found[name] = subset
            else:
                missing[name] = self._why_missing(name, main)
        return found, missing

    def _find(self, name: str, layout_name: str) -> _Found | None:
        """Find a subset in one layout; None where that has no image of it."""
        for folder in self._candidates(name, self.layouts[layout_name]):
            found = self._label(folder, layout_name, name)
            if found.images:
                return found
        return None

    def _label(self, folder: Path, layout_name: str, name: str) -> _Found:
        """List and label the images in a folder, once; a subset's only, where a column tells them apart."""
        layout = self.layouts[layout_name]
        subset = None if layout.subset_column is None else name
        key = folder, layout_name, subset
        if key not in self.labelled:
            table = layout.table
            column = None if table is None or table.file is not None or not layout.shards else table.label
            listed, rows = self._walk(folder, layout.shards, column), self._rows(layout)
            paths = [] if rows is None else [self._path(listed, part) for part in listed.folders]
            self.labelled[key] = _Found(layout_name, layout, listed, labels_of(listed, layout, rows, paths, subset))
        return self.labelled[key]

    def _rows(self, layout: Layout) -> LabelRows | None:
        """Read a layout's table, once, if it is a file."""
        table = layout.table
        if table is None or table.file is None:
            return None
        key = repr((table, layout.subset_column))
        if key not in self.rows:
            self.rows[key] = LabelRows(self.data_root / table.file, table, "labels", layout.subset_column)
        return self.rows[key]

    def _candidates(self, name: str, layout: Layout) -> Iterator[Path]:
        for base in layout.folders:
            for folder in layout.folders_of(name):
                path = find_folder(self.data_root, f"{base}/{folder}")
                if path is not None:
                    yield path

    def _walk(self, path: Path, shards: bool = False, label: str | None = None) -> Walk:
        key = path, shards, label
        if key not in self.walks:
            self.walks[key] = cached_walk(path, self.suffixes, self.skip, self.cache, shards, label)
        return self.walks[key]

    def _shared(self, found: Mapping[str, _Found], reals: Path | None) -> dict[str, str]:
        """Return which group of shared reals serves which subset that has no reals of its own."""
        pairs: dict[str, str] = {}
        for name, subset in found.items():
            if subset.has(REAL):
                continue
            serving = [f"shared:{key}" for key, shared in self.manifest.shared_reals.items() if name in shared.serves]
            for group in [USER_REALS] if reals is not None else serving:
                folder = self._shared_folder(group, reals)
                if folder is not None and self._has_reals(folder):
                    pairs[name] = group
                    break
        return pairs

    def _has_reals(self, folder: Path) -> bool:
        return any(part.folder.names and part.label == REAL for part in labels_of_reals(self._walk_reals(folder)))

    def _walk_reals(self, folder: Path) -> Walk:
        """List a folder of reals; its shards only where it has no image of its own."""
        listed = self._walk(folder)
        return listed if any(part.names for part in listed.folders) else self._walk(folder, shards=True)

    def _shared_folder(self, group: str, reals: Path | None) -> Path | None:
        if group == USER_REALS:
            return reals
        folders = self.manifest.shared_reals[group.removeprefix("shared:")].folders
        return next(filter(None, (find_folder(self.data_root, folder) for folder in folders)), None)

    def _path(self, listed: Walk, folder: Folder) -> str:
        return _join(self._relative(listed.path), *folder.parts)

    def _add(self, group: int, listed: Walk, parts: list[LabelledFolder], layout: Layout | None) -> None:
        base = self._relative(listed.path)
        rows = None if layout is None else self._rows(layout)
        for name, reason in listed.unreadable.items():
            self.unreadable[base if name == "." else _join(base, name)] = reason
        for folder, label, reason in parts:
            prefix = self._path(listed, folder)
            for name, problem in folder.problems.items():
                self.passed_over.add(problem, _join(prefix, name))
            for name in folder.others:
                suffix = Path(name).suffix.lower() or "(none)"
                self.passed_over.add(f"suffix {suffix}", _join(prefix, name))
            start = f"{prefix}/" if prefix else ""
            paths = [start + name for name in folder.names]
            if rows is not None:
                rows.use(paths)
            if label is not None:
                class_name = "" if layout is None else class_of(folder, layout)
                shard = _join(base, folder.shard) if folder.shard else ""
                offsets = folder.offsets or [-1] * len(paths)
                self.columns.append(_Column(paths, group, label, class_name, folder.sizes, folder.mtimes, shard, offsets))
            elif layout is not None:
                for path in paths:
                    self.passed_over.add(reason, path)

    def _relative(self, path: Path) -> str:
        inside = path.is_relative_to(self.data_root)
        return path.relative_to(self.data_root).as_posix() if inside else path.absolute().as_posix()

    def _why_missing(self, name: str, main: str) -> str:
        for key, layout in sorted(self.layouts.items(), key=lambda item: not item[1].shards):  # what sees most
            for path in self._candidates(name, layout):
                found = self._label(path, key, name)
                self._add(0, found.walk, found.parts, layout)
                where = f"in a folder {' or '.join(layout.labels)}" if layout.table is None else "with a label"
                return f"no image {where} below {path}"
        layout = self.layouts[main]
        base = next(filter(None, (find_folder(self.data_root, folder) for folder in layout.folders)), None)
        return f"no folder {layout.folders_of(name)[0]} in {base or self.data_root / layout.folders[0]}"

    def _nothing_found(self) -> str:
        """Say what is missing, and whether the subsets lie where the user may have meant."""
        layout = next(iter(self.layouts.values()))
        drawn = dict.fromkeys(layout.draw(str(self.data_root)) for layout in self.layouts.values())
        trees = "\nor\n".join(drawn)  # layouts may differ in what a drawing does not show
        expected = f"Expected:\n{trees}\nTo get it: {self.manifest.how_to_get}"
        here = [base for base in layout.folders if find_folder(self.data_root, base)]
        if here:
            seen = f" Passed over: {self.passed_over.counts}." if self.passed_over.counts else ""
            for rows in self.rows.values():
                seen += f" Rows of {rows.name} are of, say, {name_list(rows.unused, 2) or 'nothing'}."
            if self.unreadable:
                seen += f" Unreadable: {name_list((f'{path}: {reason}' for path, reason in self.unreadable.items()), 3)}."
            return (
                f"{self.manifest.title}: none of its {len(layout.subsets)} subsets has an image in "
                f"{self.data_root / here[0]}.{seen} {expected}"
            )
        misplaced = [
            name
            for name, folders in ((name, layout.folders_of(name)) for name in layout.subsets)
            if folders != (".",) and any(find_folder(self.data_root, folder) for folder in folders)
        ]
        found = f"none of its subsets is in {self.data_root} either"
        if misplaced:
            found = f"its subsets {name_list(misplaced)} are in {self.data_root} itself: put them into {layout.folders[0]}/"
            if self.data_root.resolve().match(layout.folders[0]):
                above = self.data_root.resolve().parents[len(Path(layout.folders[0]).parts) - 1]
                found = f"its subsets {name_list(misplaced)} are in {self.data_root} itself: give data_root={above}"
        return f"{self.manifest.title}: no folder {layout.folders[0]} in {self.data_root}; {found}. {expected}"


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part not in (".", ""))


def _column(runs: Iterator[tuple[int, int]], dtype: type[Integer]) -> NDArray[Integer]:
    """Repeat each value as often as its count says."""
    values, counts = zip(*runs, strict=True)
    return np.repeat(np.array(values, dtype), counts)
