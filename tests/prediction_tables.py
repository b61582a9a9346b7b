"""Made-up prediction tables for tests of the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.scores import make_table


def sigmoid(logit: NDArray[np.floating]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logit.astype(np.float32)))).astype(np.float32)


def table_of(
    subset: Sequence[str],
    label: Sequence[int] | NDArray[np.integer],
    logit: Sequence[float] | NDArray[np.floating],
    ids: Sequence[int] | NDArray[np.integer] | None = None,
    statuses: Sequence[int] | None = None,
    benchmark: str = "x",
) -> pa.Table:
    """A row an entry; an image's path follows from its id."""
    logit = np.asarray(logit, np.float32)
    ids = np.arange(len(logit)) if ids is None else np.asarray(ids)
    names = list(dict.fromkeys(subset))
    position = {name: i for i, name in enumerate(names)}
    return make_table(
        ids=ids,
        paths=[f"{i}.png" for i in ids.tolist()],
        benchmark=benchmark,
        subsets=names,
        subset_ids=np.array([position[name] for name in subset], int),
        labels=np.asarray(label, np.int8),
        statuses=np.zeros(len(logit), int) if statuses is None else np.asarray(statuses),
        logits=logit,
        p_fake=sigmoid(logit),
    )


def random_table(size: int, seed: int, ties: bool = False, subsets: int = 3) -> pa.Table:
    """`size` images, each a member of one subset or more; some have no score, classes may be missing."""
    generator = np.random.default_rng(seed)
    member = generator.random((size, subsets)) < 0.3
    member[np.arange(size), generator.integers(0, subsets, size)] = True
    label = generator.integers(0, 2, size) if generator.random() < 0.9 else np.ones(size, int)
    logit = generator.normal(size=size) * 3 + label
    logit = logit.round() if ties else logit
    status = np.where(generator.random(size) < 0.1, 2, 0)
    image, subset = np.nonzero(member)
    order = generator.permutation(len(image))
    image, subset = image[order], subset[order]
    return table_of([f"s{i}" for i in subset], label[image], logit[image], image * 7, status[image])
