"""The audit of a benchmark: which images are looked at, and what of their files goes into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.images.file_facts import FileFacts
from mirror_pl.labels import FAKE, REAL
from mirror_pl.reports.confounds import POOLED, SubsetAudit
from mirror_pl.scores.audit import audit

LOOKED_AT: Final = 5000
"""Images of a class and subset, at most."""


def drawn(index: BenchmarkIndex, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Return the ids of the images to look at by subset, and in `POOLED` those of all subsets, if there are several.

    Each image has one random rank, and those with the lowest are taken: reals that subsets share are the same ones for all.
    """
    ranks = np.random.default_rng(seed).permutation(len(index))

    def lowest(images: NDArray[np.int64]) -> NDArray[np.int64]:
        ranked = images[np.argsort(ranks[images])]
        of_class = (ranked[index.labels[ranked] == label][:LOOKED_AT] for label in (REAL, FAKE))
        return np.sort(np.concatenate(list(of_class)))

    ids, positions = index.rows()
    chosen = {name: lowest(ids[positions == position]) for position, name in enumerate(index.subsets)}
    return chosen | ({POOLED: lowest(np.unique(np.concatenate(list(chosen.values()))))} if len(chosen) > 1 else {})


def audit_subset(
    index: BenchmarkIndex, subset: str, images: Iterable[int], facts: Mapping[int, FileFacts | None]
) -> SubsetAudit:
    """Audit the files of some images; one that is a copy of another of its class does not count."""
    known: dict[tuple[int, str], tuple[int, FileFacts]] = {}
    unread = copies = 0
    for image in images:
        found, label = facts[image], int(index.labels[image])
        if found is None:
            unread += 1
        elif (label, found.content) in known:
            copies += 1
        else:
            known[label, found.content] = label, found
    labels = np.array([label for label, _ in known.values()], np.int8)
    result = audit(_features([found for _, found in known.values()]), labels)
    return SubsetAudit(subset, result, unread, copies)


def _features(facts: list[FileFacts]) -> dict[str, Any]:
    # Of equally strong ones, the first is named: what a file is saved as can be mended more easily than sizes.
    return {
        "format": [one.format for one in facts],
        "jpeg_tables": [one.jpeg_tables for one in facts],
        "jpeg_quality": [one.jpeg_quality for one in facts],
        "exif": [one.exif for one in facts],
        "file_size": [one.file_size for one in facts],
        "width": [one.width for one in facts],
        "height": [one.height for one in facts],
        "aspect_ratio": [one.width / one.height for one in facts],
    }
