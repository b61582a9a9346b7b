"""Two detectors on the same images: who is right where the other is wrong, and how far the difference would move.

Compared are decisions, not ranks: two detectors' scores need not be on one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mirror_pl.labels import FAKE
from mirror_pl.scores.bootstrap import interval
from mirror_pl.scores.columns import Columns, columns, generator_of, strata

_SEPARATOR: Final = "\0"
"""Between names in a key; no path holds it."""


@dataclass(frozen=True)
class PairedComparison:
    """Two detectors on the images that both tables score and label equally.

    Attributes:
        images: How many those are; one that several subsets share counts once.
        reals: Of them.
        fakes: Of them.
        only_first_right: Images that the first detector decides right and the second wrong.
        only_second_right: The other way round.
        p_value: Of McNemar's exact test, two-sided: how often chance alone would divide the images that one detector alone
            decides right as unevenly, if both were as good. 1 if there are none; None without images.
        difference: Balanced accuracy of the first minus that of the second, in [-1, 1]: the unweighted mean over subsets
            that have both classes; None if there is none.
        low: Lower end of the interval of `difference`.
        high: Upper end.
        unmatched: Images in only one of the tables.
        left_out: Images in both that one of them does not score, or that they label differently.
    """

    images: int
    reals: int
    fakes: int
    only_first_right: int
    only_second_right: int
    p_value: float | None
    difference: float | None
    low: float | None
    high: float | None
    unmatched: int
    left_out: int


@dataclass(frozen=True)
class _Paired:
    """What one benchmark adds to a comparison; `difference` and its `replicates` are None where it has none."""

    reals: int
    fakes: int
    only_first_right: int
    only_second_right: int
    unmatched: int
    left_out: int
    difference: float | None
    replicates: NDArray[np.float64] | None


def compare(
    first: pa.Table, second: pa.Table, *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> PairedComparison:
    """Compare two detectors on one benchmark.

    Images are matched by benchmark and path. McNemar's test (1947) takes each image once, and says whether the two differ at
    all; `difference` weighs classes and subsets equally, and so may have the other sign.

    The interval is that of the paired bootstrap: images are drawn with what both detectors decided on them, within the
    strata of `bootstrap`. Of a stratum only the numbers of images that one detector alone decides right matter, so these are
    drawn, from the multinomial distribution that they follow exactly. If nothing but agreement was seen, the interval is a
    point; see `interval` for what that does not say.

    Args:
        first: Rows of one benchmark.
        second: Rows of the same benchmark, in any order, by another detector.
        replicates: Of the bootstrap.
        seed: 0 or above. The same seed and images give the same figures.
        level: Of the interval, between 0 and 1.
    """
    return compare_many([(first, second)], replicates=replicates, seed=seed, level=level)


def compare_many(
    pairs: Sequence[tuple[pa.Table, pa.Table]], *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> PairedComparison:
    """Compare two detectors on several benchmarks together.

    Images are counted together for McNemar's test; the same path in two benchmarks is two images. `difference` is the
    unweighted mean over the benchmarks where it is defined, and its interval that of the mean of their replicates.

    Args:
        pairs: For each benchmark, the first detector's table and the second's.
        replicates: Of the bootstrap.
        seed: 0 or above.
        level: Of the interval, between 0 and 1.
    """
    parts = [_paired(first, second, replicates, seed) for first, second in pairs]
    reals, fakes = sum(part.reals for part in parts), sum(part.fakes for part in parts)
    only_first, only_second = sum(part.only_first_right for part in parts), sum(part.only_second_right for part in parts)
    drawn = [part.replicates for part in parts if part.replicates is not None]
    differences = [part.difference for part in parts if part.difference is not None]
    ends = interval(np.mean(drawn, axis=0), level) if drawn else None
    return PairedComparison(
        images=reals + fakes,
        reals=reals,
        fakes=fakes,
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=_mcnemar(only_first, only_second) if reals + fakes else None,
        difference=float(np.mean(differences)) if differences else None,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        unmatched=sum(part.unmatched for part in parts),
        left_out=sum(part.left_out for part in parts),
    )


def _paired(first: pa.Table, second: pa.Table, replicates: int, seed: int) -> _Paired:
    """Match the images of one benchmark, count, and draw."""
    data, other = columns(first), columns(second)
    image, other_image, num_images = _images(first, second)
    row, other_row = _first_rows(image, num_images), _first_rows(other_image, num_images)
    in_both = np.flatnonzero((row >= 0) & (other_row >= 0))

    usable = data.scored[row[in_both]] & other.scored[other_row[in_both]]
    usable &= data.label[row[in_both]] == other.label[other_row[in_both]]
    used = in_both[usable]
    label = np.full(num_images, -1, np.int8)
    label[used] = data.label[row[used]]
    first_right = (data.logit[row[used]] > 0) == (label[used] == FAKE)
    second_right = (other.logit[other_row[used]] > 0) == (label[used] == FAKE)
    only_first, only_second = np.zeros((2, num_images), bool)
    only_first[used] = first_right & ~second_right
    only_second[used] = second_right & ~first_right

    member, subset = _memberships(data, image, other, other_image)
    kept = label[member] >= 0
    member, subset = member[kept], subset[kept]
    # For each subset and class: images, their surplus of first over second, and that surplus in each replicate.
    sizes = np.zeros((len(data.names), 2))
    surplus = np.zeros((len(data.names), 2))
    drawn = np.zeros((len(data.names), 2, replicates))
    for part in strata(member, subset, label[member]):
        here = member[part.rows]
        counts = np.array([np.count_nonzero(only_first[here]), np.count_nonzero(only_second[here])])
        generator = generator_of(first, row[here], part.label, "paired", seed)
        shares = np.append(counts, len(here) - counts.sum()) / len(here)
        draws = generator.multinomial(len(here), shares, size=replicates)
        for position in part.members:
            sizes[position, part.label] += len(here)
            surplus[position, part.label] += counts[0] - counts[1]
            drawn[position, part.label] += draws[:, 0] - draws[:, 1]
    both = (sizes > 0).all(axis=1)
    sizes, surplus, drawn = sizes[both], surplus[both], drawn[both]
    fakes = int(np.count_nonzero(label == FAKE))
    return _Paired(
        reals=len(used) - fakes,
        fakes=fakes,
        only_first_right=int(np.count_nonzero(only_first)),
        only_second_right=int(np.count_nonzero(only_second)),
        unmatched=int(np.count_nonzero((row >= 0) != (other_row >= 0))),
        left_out=len(in_both) - len(used),
        difference=float((surplus / sizes).mean()) if both.any() else None,
        replicates=(drawn / sizes[..., None]).mean(axis=(0, 1)) if both.any() else None,
    )


def _images(first: pa.Table, second: pa.Table) -> tuple[NDArray[np.integer], NDArray[np.integer], int]:
    """Number the images of both tables: the numbers in the rows of the one and of the other, and how many there are."""
    keys = [
        pc.binary_join_element_wise(table["benchmark"].cast(pa.string()), table["path"], _SEPARATOR)
        for table in (first, second)
    ]
    together = pa.chunked_array([chunk for column in keys for chunk in column.chunks], pa.string())
    encoded = together.combine_chunks().dictionary_encode()
    numbers = encoded.indices.to_numpy()
    return numbers[: len(first)], numbers[len(first) :], len(encoded.dictionary)


def _first_rows(image: NDArray[np.integer], num_images: int) -> NDArray[np.int64]:
    """Return ``(num_images,)``: the first row of each image, or -1."""
    rows = np.full(num_images, -1)
    # Of several values for one place, the last stays.
    rows[image[::-1]] = np.arange(len(image))[::-1]
    return rows


def _memberships(
    data: Columns, image: NDArray[np.integer], other: Columns, other_image: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return images and their subsets ``(M,)``, positions in `data`, where both tables have the image in the subset."""
    num_subsets = max(1, len(data.names))
    place = {name: position for position, name in enumerate(data.names)}
    other_subset = np.array([place.get(name, -1) for name in other.names], np.int64)[other.subset]
    known = other_subset >= 0
    keys = np.sort(image.astype(np.int64) * num_subsets + data.subset)
    other_keys = np.sort(other_image[known].astype(np.int64) * num_subsets + other_subset[known])
    # numpy's intersect1d hashes, which takes seconds for a million.
    place_there = np.searchsorted(other_keys, keys)
    common = keys[np.append(other_keys, -1)[place_there] == keys]
    return common // num_subsets, common % num_subsets


def _mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's test from the binomial distribution itself, not its approximation."""
    if not only_first + only_second:
        return 1.0
    from scipy.stats import binomtest  # slow to import, and most reports compare nothing

    return float(binomtest(only_first, only_first + only_second).pvalue)
