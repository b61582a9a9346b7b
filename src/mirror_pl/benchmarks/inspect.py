"""What can be said of a benchmark's files without decoding one: counts, formats, and images under two labels."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirror_pl.benchmarks.index import BenchmarkIndex
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

FORMAT_BIAS = 0.5
"""Share of one class's files whose format the other class lacks, from which on a subset is called biased."""


@dataclass(frozen=True)
class SubsetFiles:
    """One subset's files.

    Attributes:
        subset: Its name.
        layout: Layout it was found in.
        paired_with: Shared reals that count in it, or None.
        counts: Images by label name.
        expected: Images to expect by label name; empty where nothing is known.
        formats: Images by format, for each label name.
        format_bias: Share, in [0, 1], of real and fake files that their format alone tells apart; None with one class.
    """

    subset: str
    layout: str
    paired_with: str | None
    counts: Mapping[str, int]
    expected: Mapping[str, int]
    formats: Mapping[str, Mapping[str, int]]
    format_bias: float | None

    @property
    def is_biased(self) -> bool:
        """Whether a detector could go by the file format."""
        return self.format_bias is not None and self.format_bias >= FORMAT_BIAS

    @property
    def differs_from_expected(self) -> bool:
        """Whether a class with an expected count has another one."""
        return any(self.counts[label] != count for label, count in self.expected.items())


def inspect_subsets(index: BenchmarkIndex) -> list[SubsetFiles]:
    """Count each subset's files by label and format."""
    formats_of_images = np.array([_format(path) for path in index.paths], dtype=object)
    ids, positions = index.rows()
    result = []
    for position, name in enumerate(index.subsets):
        here = ids[positions == position]
        formats = {
            label_name: dict(Counter(formats_of_images[here[index.labels[here] == label]].tolist()))
            for label, label_name in enumerate(LABEL_NAMES)
        }
        counts = {label_name: sum(of_label.values()) for label_name, of_label in formats.items()}
        result.append(
            SubsetFiles(
                subset=name,
                layout=index.layouts[name],
                paired_with=index.pairs[name].removeprefix("shared:") if name in index.pairs else None,
                counts=counts,
                expected=index.manifest.expected_of(name),
                formats=formats,
                format_bias=_bias(formats[LABEL_NAMES[REAL]], formats[LABEL_NAMES[FAKE]]),
            )
        )
    return result


def find_duplicates(index: BenchmarkIndex) -> list[tuple[str, str]]:
    """Find images that are both real and fake, to the byte: pairs of a real's and a fake's path.

    Only files whose size occurs in both classes are read, and all of Parquet files, which do not say their images' sizes.
    Empty files, and what has no size, are no images.
    """
    sizes = index.sizes.copy()
    digests: dict[int, str] = {}
    for image in np.flatnonzero((sizes < 0) & (index.shard_ids >= 0)).tolist():
        sizes[image], digests[image] = _size_and_digest(index, image)
    both = set(sizes[index.labels == REAL].tolist()) & set(sizes[index.labels == FAKE].tolist()) - {0, -1}
    by_content: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for image in np.flatnonzero(np.isin(sizes, sorted(both))).tolist():
        digest = digests[image] if image in digests else _size_and_digest(index, image)[1]
        if digest:
            by_content[digest][index.labels[image]].append(index.paths[image])
    return [(real, fake) for reals, fakes in by_content.values() for real in reals for fake in fakes]


def _size_and_digest(index: BenchmarkIndex, image: int) -> tuple[int, str]:
    """Return the size and the SHA-256 of an image's bytes; -1 and an empty text where they cannot be read."""
    try:
        content = index.source(image).read_bytes()
    except OSError:  # found undecodable elsewhere
        return -1, ""
    return len(content), hashlib.sha256(content).hexdigest()


def _format(path: str) -> str:
    suffix = Path(path).suffix.lower().removeprefix(".")
    return "jpeg" if suffix == "jpg" else suffix or "no suffix"


def _bias(reals: Mapping[str, int], fakes: Mapping[str, int]) -> float | None:
    """Total variation distance of the two classes' formats: 0 the same shares, 1 no format in common."""
    real_count, fake_count = sum(reals.values()), sum(fakes.values())
    if not real_count or not fake_count:
        return None
    names = {*reals, *fakes}
    return sum(abs(reals.get(n, 0) / real_count - fakes.get(n, 0) / fake_count) for n in names) / 2
