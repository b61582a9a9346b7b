"""A prediction table's columns as arrays, and its images in strata: the groups that a bootstrap draws within.

Strings are looked at as codes, so that a million rows take a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mirror_pl.scores.table import SCORED


@dataclass(frozen=True)
class Columns:
    """The rows of one benchmark's prediction table, R of them.

    Attributes:
        names: The S subsets, in the order in which the table first names them.
        subset: ``(R,)`` integer, position in `names`.
        id: ``(R,)`` int64, of the image; one that several subsets share stands in a row of each.
        label: ``(R,)`` int8, 0 real and 1 fake.
        scored: ``(R,)`` bool, whether there is a score.
        logit: ``(R,)`` float32; NaN where not scored.
        p_fake: ``(R,)`` float32; NaN where not scored.
    """

    names: tuple[str, ...]
    subset: NDArray[np.integer]
    id: NDArray[np.int64]
    label: NDArray[np.int8]
    scored: NDArray[np.bool_]
    logit: NDArray[np.float32]
    p_fake: NDArray[np.float32]


@dataclass(frozen=True)
class Stratum:
    """Scored images of one class that are members of the same subsets.

    Attributes:
        label: Of all of them.
        members: Positions of the subsets, rising.
        rows: One row of the table an image, rising.
    """

    label: int
    members: tuple[int, ...]
    rows: NDArray[np.int64]


def columns(table: pa.Table) -> Columns:
    """Take the columns of a prediction table apart."""
    names = table["subset"].unique().to_pylist()
    subset_codes, subset_values = _codes(table["subset"])
    positions = {name: position for position, name in enumerate(names)}
    # A dictionary may hold names that no row has.
    subset = np.array([positions.get(value, 0) for value in subset_values], np.int32)[subset_codes]
    status_codes, status_values = _codes(table["status"])
    scored = np.isin(status_values, [str(status) for status in SCORED])[status_codes]
    return Columns(
        tuple(names),
        subset,
        table["id"].to_numpy(),
        table["label"].to_numpy(),
        scored,
        table["logit"].to_numpy(),
        table["p_fake"].to_numpy(),
    )


def rows_by_subset(data: Columns) -> list[NDArray[np.int64]]:
    """Return the rows of each subset, rising."""
    order = np.argsort(data.subset, kind="stable")
    ends = np.cumsum(np.bincount(data.subset, minlength=len(data.names)))
    return np.split(order, ends[:-1]) if len(ends) else []


def distinct_rows(data: Columns) -> NDArray[np.int64]:
    """Return the first row of each image, rising."""
    _, first = np.unique(data.id, return_index=True)
    return np.sort(first)


def strata(image: NDArray[np.integer], subset: NDArray[np.integer], label: NDArray[np.integer]) -> list[Stratum]:
    """Group images by class and by the set of subsets that they are members of.

    Args:
        image: ``(R,)``, equal for rows of the same image.
        subset: ``(R,)``, position of a subset.
        label: ``(R,)``, of the image.
    """
    _, first, position = np.unique(image, return_index=True, return_inverse=True)
    if not len(first):
        return []
    num_subsets = int(subset.max()) + 1
    # Most images have one row, and so one subset. Only of the others is the set worked out, as a row of bits.
    group = np.empty(len(first), np.int64)
    group[position] = subset
    members: dict[int, tuple[int, ...]] = {name: (name,) for name in range(num_subsets)}
    several = np.bincount(position) > 1
    if several.any():
        rows = np.flatnonzero(several[position])
        member = np.zeros((np.count_nonzero(several), num_subsets), bool)
        member[(np.cumsum(several) - 1)[position[rows]], subset[rows]] = True
        sets, which = np.unique(np.packbits(member, axis=1), axis=0, return_inverse=True)
        group[several] = num_subsets + which.ravel()
        for code, bits in enumerate(np.unpackbits(sets, axis=1, count=num_subsets), num_subsets):
            members[code] = tuple(np.flatnonzero(bits).tolist())

    key = group * 2 + label[first]
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(key[order]) != 0))
    found = []
    for part in np.split(order, starts[1:]):
        found.append(Stratum(int(label[first[part[0]]]), members[int(group[part[0]])], np.sort(first[part])))
    return found


def generator_of(table: pa.Table, rows: NDArray[np.int64], label: int, purpose: str, seed: int) -> np.random.Generator:
    """Return the random numbers of a stratum, which follow from `seed` and `purpose` and from whose images they are.

    They are named after the benchmark, the class and the path that sorts first, which no other stratum has: not after
    subsets or positions, so that neither another subset nor the order of rows changes a stratum's numbers.

    Args:
        table: With the paths.
        rows: Of the stratum's images in `table`.
        label: Of them.
        purpose: What the numbers are for; others for another purpose.
        seed: 0 or above.
    """
    paths = table["path"].take(pa.array(rows))
    benchmark = table["benchmark"][int(rows[0])].as_py()
    name = "\0".join([purpose, benchmark, str(label), pc.min(paths).as_py()])
    words = np.frombuffer(sha256(name.encode()).digest(), np.uint32)
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.integer], list[str]]:
    """Return a dictionary column's codes and the values that they point into."""
    column = column.unify_dictionaries()
    values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
    return np.concatenate([np.empty(0, np.int32), *(chunk.indices.to_numpy() for chunk in column.chunks)]), values
