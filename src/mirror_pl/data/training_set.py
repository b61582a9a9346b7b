"""Which images a bank or a detector is trained on: found in folders, labelled by them, and chosen from by a seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.benchmarks.label_rows import LabelRows
from mirror_pl.benchmarks.labelling import LabelledFolder, labels_of
from mirror_pl.benchmarks.manifest import LabelTable, Layout
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.images import IMAGE_SUFFIXES
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.sources.folder import Folder, suffix_of
from mirror_pl.sources.listed import Listed, PassedOver
from mirror_pl.sources.shards import SHARD_SUFFIXES, is_shard
from mirror_pl.sources.walk import Walk
from mirror_pl.sources.walk_cache import cached_walk
from mirror_pl.texts import Texts

LABEL_FOLDERS: Final = {"0_real": REAL, "nature": REAL, "real": REAL, "1_fake": FAKE, "ai": FAKE, "fake": FAKE}
"""Names of folders below `root` that label what is in them, in lower case; a folder's own case does not matter."""
_KNOWN: Final = "0_real and 1_fake, nature and ai, or real and fake"
TRAIN_FOLDER: Final = "train"
HELD_OUT_FOLDERS: Final = frozenset({"val", "test"})
"""Folders below `root` that are passed over where images are found in a folder `TRAIN_FOLDER`."""


@dataclass(frozen=True)
class TrainingSet(Listed):
    """Images to train on, in a fixed order: reals, extra reals, fakes; each of these by folder given, then by path.

    Attributes:
        folders: Folders given, that `folder_ids` point into; for a shard that was given, the folder that it lies in.
        folder_ids: ``(S,)`` int32.
        passed_over: Files below the folders that are not trained on, but for those beyond a number asked for.
        unreadable: Why a folder could not be listed, by its path; its files are unknown.
    """

    folders: tuple[Path, ...]
    folder_ids: NDArray[np.int32]
    passed_over: PassedOver
    unreadable: Mapping[str, str]

    def base(self, image: int) -> Path:
        """Return which of `folders` an image was found in, by its id."""
        return self.folders[self.folder_ids[image]]

    def fingerprint(self) -> str:
        """SHA-256 over every image's path below its folder, size and label: equal for equal data, whatever the machine."""
        digest = hashlib.sha256()
        for path, folder, size, label in zip(self.paths, self.folder_ids, self.sizes_to_tell_by(), self.labels, strict=True):
            digest.update(f"{folder}\0{path}\0{size}\0{label}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def find_training_images(
    real: Sequence[Path] = (),
    fake: Sequence[Path] = (),
    root: Path | None = None,
    suffixes: Set[str] = IMAGE_SUFFIXES,
    *,
    extra_real: Sequence[Path] = (),
    extra_reals_per_fake: float = 1.0,
    labels: Collection[int] = (REAL, FAKE),
    max_per_class: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    table: LabelTable | None = None,
) -> TrainingSet:
    """Find the images to train on.

    An image counts once, however many of the folders hold it; folders reached by a symbolic link are the folders they lead
    to. Shards (tar, zip, Parquet) are read in place where they are given themselves, or where a folder holds no image of its
    own: they often lie beside what they were unpacked to.

    Args:
        real: Folders below which every image is real; here and below, a shard is a folder too.
        fake: Folders below which every image is fake.
        root: Folder below which images are labelled by the innermost folder they lie in that `LABEL_FOLDERS` names:
            GenImage's layout, and the one of ``0_real`` and ``1_fake``. If any of them lies in a folder ``train``, all in a
            folder ``val`` or ``test`` are passed over, also those of other generators, which are no more to be trained on.
            Without any folder ``train`` they are taken: the root was named for them. Where no folder decides, a Parquet
            file's label column does.
        suffixes: File suffixes of images, lower case, with the dot; the case of a file's own suffix does not matter.
        extra_real: Folders of reals of which `extra_reals_per_fake` are drawn for each fake, as the published training code
            does from MSCOCO. None is drawn twice before each was once. Used only where both classes are wanted.
        extra_reals_per_fake: How many; the product with the number of fakes is rounded.
        labels: Classes wanted; others are left out. A bank of reals takes ``[0]``.
        max_per_class: Reals and fakes taken at most, before extra reals; None takes all. Which ones depends on `seed` and
            their paths, not on the order they are listed in or on what else is there.
        seed: Decides which images are chosen.
        cache: Folder to keep listings in; see `cached_walk`.
        table: What labels the images below `root` in place of the names of folders.

    Raises:
        ConfigError: If a number is out of range.
        DataError: If no folder is given, one is missing or has no image, a class has none, or an image is given as both
            real and fake.
    """
    if max_per_class is not None and max_per_class < 1:
        raise ConfigError(f"data.max_per_class must be at least 1, or null for all, got {max_per_class}")
    if not 0 < extra_reals_per_fake < float("inf"):
        raise ConfigError(f"data.extra_reals_per_fake must be more than 0, got {extra_reals_per_fake}")
    if not labels or not set(labels) <= {REAL, FAKE}:
        raise ConfigError(f"data.labels must be [0] (real), [1] (fake) or [0, 1], got {list(labels)}")
    search = _Search(suffixes, frozenset(labels), cache)
    if REAL in labels:
        for folder in real:
            search.add("data.real", folder, REAL, search.columns[REAL])
    if FAKE in labels:
        for folder in fake:
            search.add("data.fake", folder, FAKE, search.columns[FAKE])
    if root is not None:
        search.add_root(root, table)
    if not search.folders:
        raise DataError(
            "no folder to train on was given; give data.real=[FOLDER] and data.fake=[FOLDER], or data.root=FOLDER with "
            f"folders {_KNOWN} in it"
        )
    chosen = {label: column.chosen(max_per_class, seed) for label, column in search.columns.items()}
    extras = _Column("extra_real")
    if extra_real and FAKE in labels and REAL in labels:
        for folder in extra_real:
            search.add("data.extra_real", folder, REAL, extras)
        if not extras.paths:
            raise DataError(
                f"data.extra_real: no image in {', '.join(map(str, extra_real))} is not among the reals already; give other "
                "reals as data.extra_real=[FOLDER]"
            )
    extra = extras.drawn(round(extra_reals_per_fake * len(chosen[FAKE])), seed)
    for label in sorted(labels):
        if not len(chosen[label]) and not (label == REAL and len(extra)):
            raise DataError(
                f"no {LABEL_NAMES[label]} image in {', '.join(map(str, search.folders))}; give a folder of them as "
                f"data.{LABEL_NAMES[label]}=[FOLDER], or train on one class only with data.labels=[{1 - label}]"
            )
    parts = [(REAL, search.columns[REAL], chosen[REAL]), (REAL, extras, extra), (FAKE, search.columns[FAKE], chosen[FAKE])]
    return TrainingSet(
        folders=tuple(search.folders),
        paths=Texts(column.paths[image] for _, column, images in parts for image in images.tolist()),
        folder_ids=np.concatenate([np.array(column.folder_ids, np.int32)[images] for _, column, images in parts]),
        labels=np.concatenate([np.full(len(images), label, np.int8) for label, _, images in parts]),
        sizes=np.concatenate([np.array(column.sizes, np.int64)[images] for _, column, images in parts]),
        shards=tuple(search.shards),
        shard_ids=np.concatenate([np.array(column.shard_ids, np.int32)[images] for _, column, images in parts]),
        offsets=np.concatenate([np.array(column.offsets, np.int64)[images] for _, column, images in parts]),
        mtimes=np.concatenate([np.array(column.mtimes, np.int64)[images] for _, column, images in parts]),
        passed_over=search.passed_over,
        unreadable=search.unreadable,
    )


@dataclass
class _Column:
    """Images of one kind, as listed; `name` tells its draws from those of the others."""

    name: str
    paths: list[str] = field(default_factory=list)
    folder_ids: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    shard_ids: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def chosen(self, count: int | None, seed: int) -> NDArray[np.int64]:
        """Return the positions of `count` images, or of all if there are no more, in order."""
        if count is None or count >= len(self.paths):
            return np.arange(len(self.paths))
        return self.drawn(count, seed)

    def drawn(self, count: int, seed: int) -> NDArray[np.int64]:
        """Return `count` positions, in order; where that is more than there are, each as often as another, but for one."""
        if not self.paths:
            return np.empty(0, np.int64)
        rounds, rest = divmod(count, len(self.paths))
        images = np.repeat(np.arange(len(self.paths)), rounds)
        return np.sort(np.concatenate([images, self._ranked(seed)[:rest]]), kind="stable")

    def _ranked(self, seed: int) -> NDArray[np.int64]:
        """Return all positions in an order drawn by `seed`, which files added or gone elsewhere do not change."""
        keys = np.empty(len(self.paths), np.uint64)
        for image, (path, folder) in enumerate(zip(self.paths, self.folder_ids, strict=True)):
            key = f"{seed}\0{self.name}\0{folder}\0{path}".encode("utf-8", "surrogateescape")
            keys[image] = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return np.argsort(keys, kind="stable")


class _Search:
    """One search for training images. Each folder on disk is taken once, with one label."""

    def __init__(self, suffixes: Set[str], wanted: Set[int], cache: Path | None) -> None:
        self.suffixes = suffixes
        self.wanted = wanted
        self.cache = cache
        self.folders: list[Path] = []
        self.shards: dict[str, int] = {}
        """Number of each shard, by its path below its folder."""
        self.columns = {REAL: _Column("real"), FAKE: _Column("fake")}
        self.passed_over = PassedOver()
        self.unreadable: dict[str, str] = {}
        self.taken: dict[str, dict[int, tuple[str, Path]]] = {}
        """For each folder on disk, by the labels it was taken with: as what it was given, and by which path."""

    def add(self, key: str, path: Path, label: int, column: _Column) -> None:
        """Take every image below `path`."""
        listed, parts = self._find(key, path, lambda listed: [LabelledFolder(folder, label) for folder in listed.folders])
        self._take(f"{key}={path}", listed, [(part.folder, label, column) for part in parts])

    def add_root(self, path: Path, table: LabelTable | None) -> None:
        """Take what has a label, by its folders or by a table, and lies in no folder that is held out."""
        layout = Layout((".",), {}, LABEL_FOLDERS, table=table)
        rows = None if table is None or table.file is None else LabelRows(Path(table.file), table, "data.labels_file")

        def label(listed: Walk) -> list[LabelledFolder]:
            return labels_of(listed, layout, rows, ["/".join(folder.parts) for folder in listed.folders])

        listed, parts = self._find("data.root", path, label, None if table is None or rows is not None else table.label)
        has_train = any(
            part.folder.names and part.label is not None and TRAIN_FOLDER in _folded(part.folder) for part in parts
        )
        taken = []
        for folder, label_here, why in parts:
            reason = why
            if label_here is not None and has_train and HELD_OUT_FOLDERS & set(_folded(folder)):
                reason = "in a folder val or test, while others are in a folder train"
            elif label_here is not None and label_here not in self.wanted:
                reason = f"{LABEL_NAMES[label_here]}, which is not trained on"
            if rows is not None:
                rows.use("/".join((*folder.parts, name)) for name in folder.names)
            if reason or label_here is None:
                for name in folder.names:
                    self.passed_over.add(reason, str(listed.path.joinpath(*folder.parts, name)))
            else:
                taken.append((folder, label_here, self.columns[label_here]))
        if rows is not None:
            for key in rows.unused:
                self.passed_over.add(f"a row in {rows.name} but no image", key)
        if not any(folder.names for folder, _, _ in taken):
            seen = f" Passed over: {self.passed_over.counts}." if self.passed_over.counts else ""
            raise DataError(
                f"data.root: no image to train on in {path}.{seen} Put images into folders {_KNOWN} below it, or give "
                "folders of one class as data.real=[FOLDER] and data.fake=[FOLDER]"
            )
        self._take(f"data.root={path}", listed, taken)

    def _find(
        self, key: str, path: Path, label: Callable[[Walk], list[LabelledFolder]], column: str | None = None
    ) -> tuple[Walk, list[LabelledFolder]]:
        """List and label what is below `path`: its own images or, where none of them has a label, those in its shards."""
        example = f"{key}=FOLDER" if key == "data.root" else f"{key}=[FOLDER]"
        if not path.is_dir() and not is_shard(path):
            kind = "is a file, not a folder" if path.exists() else "does not exist"
            raise DataError(f"{key}: {path} {kind}; give a folder of images, or a shard, as {example}")
        listed, parts = Walk(path), list[LabelledFolder]()
        for shards in (False, True):
            listed = cached_walk(path, self.suffixes, frozenset(), self.cache, shards, column)
            parts = label(listed)
            if any(part.folder.names and part.label is not None for part in parts):
                break
        for name, reason in listed.unreadable.items():
            self.unreadable[str(listed.path if name == "." else listed.path / name)] = reason
        for folder in listed.folders:
            place = listed.path.joinpath(*folder.parts)
            for name in folder.others:
                self.passed_over.add(f"suffix {suffix_of(name) or '(none)'}", str(place / name))
            for name, problem in folder.problems.items():
                self.passed_over.add(problem, str(place / name))
        if not any(folder.names for folder in listed.folders):
            why = "".join(f" Unreadable: {name}: {reason}." for name, reason in listed.unreadable.items())
            raise DataError(
                f"{key}: no image in {path}, where names end in {', '.join(sorted(self.suffixes))}, or in a shard there "
                f"({', '.join(sorted(SHARD_SUFFIXES))}).{why} Give a folder of images as {example}"
            )
        return listed, parts

    def _take(self, given: str, listed: Walk, labelled: Sequence[tuple[Folder, int, _Column]]) -> None:
        folder_id = len(self.folders)
        self.folders.append(listed.path)
        for folder, label, column in labelled:
            if not folder.names:
                continue
            path = listed.path.joinpath(*folder.parts)
            taken = self.taken.setdefault(os.path.realpath(str(path)), {})
            if label in taken:
                continue
            for other, before in taken.items():
                if before != (given, path):  # else a table says so of images in one folder
                    raise DataError(
                        f"{path / folder.names[0]} is both {LABEL_NAMES[other]}, by {before[0]}, and {LABEL_NAMES[label]}, "
                        f"by {given}; give each folder under one label only"
                    )
            taken[label] = given, path
            start = "".join(f"{part}/" for part in folder.parts)
            column.paths += [start + name for name in folder.names]
            column.folder_ids += [folder_id] * len(folder.names)
            column.sizes += folder.sizes
            column.mtimes += folder.mtimes
            shard = self.shards.setdefault(folder.shard, len(self.shards)) if folder.shard else -1
            column.shard_ids += [shard] * len(folder.names)
            column.offsets += folder.offsets or [-1] * len(folder.names)


def _folded(folder: Folder) -> tuple[str, ...]:
    return tuple(part.casefold() for part in folder.parts)
