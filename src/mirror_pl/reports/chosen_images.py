"""Which images of a run are shown: those decided right and most surely, wrong and most surely, and least surely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.scores.columns import Columns, columns, distinct_rows


@dataclass(frozen=True)
class ChosenImage:
    """An image of a run; `path` is relative to the run's data root, `subset` says of a shared real that it is one."""

    path: str
    subset: str
    label: int
    logit: float
    p_fake: float


@dataclass(frozen=True)
class ImageGroup:
    """Images that are shown together.

    Attributes:
        title: In words.
        of: How many images of the run are of that kind, shown or not.
        images: The first of them in the order that the title says.
    """

    title: str
    of: int
    images: tuple[ChosenImage, ...]


def choose(table: pa.Table, count: int) -> tuple[ImageGroup, ...]:
    """Choose up to `count` images of each kind from one run's prediction table, each image once a kind.

    How sure a decision is goes by the logit: p_fake is 0 or 1 for all that are far enough out.
    """
    data = columns(table)
    rows = distinct_rows(data)
    rows = rows[data.scored[rows]]
    sureness = np.abs(data.logit)
    right = (data.logit > 0) == (data.label == FAKE)

    def group(title: str, kept: NDArray[np.int64], rising: bool = False) -> ImageGroup:
        key = sureness[kept] if rising else -sureness[kept]
        chosen = kept[np.argsort(key, kind="stable")[:count]]
        return ImageGroup(title, len(kept), chosen_images(table, data, chosen))

    def of(label: int, decided_right: bool) -> NDArray[np.int64]:
        return rows[(data.label[rows] == label) & (right[rows] == decided_right)]

    return (
        *(
            group(
                f"{LABEL_NAMES[label].capitalize()}s taken for {LABEL_NAMES[1 - label]}, the surest first", of(label, False)
            )
            for label in (FAKE, REAL)
        ),
        group("Least sure, right or wrong", rows, rising=True),
        *(
            group(f"{LABEL_NAMES[label].capitalize()}s decided right, the surest first", of(label, True))
            for label in (FAKE, REAL)
        ),
    )


def chosen_images(table: pa.Table, data: Columns, rows: NDArray[np.int64]) -> tuple[ChosenImage, ...]:
    """Return the images in some rows of a prediction table."""
    paths = table["path"].take(pa.array(rows)).to_pylist()
    return tuple(
        ChosenImage(path, _subset(data, row), int(data.label[row]), float(data.logit[row]), float(data.p_fake[row]))
        for path, row in zip(paths, rows, strict=True)
    )


def _subset(data: Columns, row: int) -> str:
    places = np.count_nonzero(data.id == data.id[row])
    return data.names[data.subset[row]] if places == 1 else f"shared real, of {places} subsets"
