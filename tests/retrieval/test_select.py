"""The k largest of each row, against a full sort, on rows made to mislead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from mirror_pl.retrieval import select
from mirror_pl.retrieval.select import top_k_of_rows

Rows = NDArray[np.floating]
RNG = np.random.default_rng(0)
ROWS, SLOTS = 20, 1003  # no multiple of a group

HARD: dict[str, Callable[[], Rows]] = {
    "random": lambda: RNG.standard_normal((ROWS, SLOTS)),
    "ascending": lambda: np.tile(np.arange(SLOTS, dtype=float), (ROWS, 1)),
    "descending": lambda: -np.tile(np.arange(SLOTS, dtype=float), (ROWS, 1)),
    "largest side by side": lambda: RNG.random((ROWS, SLOTS)) + 9 * (np.arange(SLOTS) // 100 == 4),
    "largest in one group": lambda: RNG.random((ROWS, SLOTS)) + 9 * (np.arange(SLOTS) % (SLOTS // select.GROUP) < 3),
    "largest after the last group": lambda: RNG.random((ROWS, SLOTS)) + 9 * (np.arange(SLOTS) >= SLOTS - 3),
    "few values": lambda: RNG.integers(0, 4, (ROWS, SLOTS)).astype(float),
    "all equal": lambda: np.zeros((ROWS, SLOTS)),
    "infinite": lambda: np.where(RNG.random((ROWS, SLOTS)) < 0.99, -np.inf, RNG.random((ROWS, SLOTS))),
    "one row of ties": lambda: RNG.random((ROWS, SLOTS)) * (np.arange(ROWS) != 7)[:, None],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("top_k", [1, 2, 20, 31, 200, SLOTS - 1, SLOTS])
@pytest.mark.parametrize("name", HARD)
def test_equals_a_sort(name: str, top_k: int, dtype: type[np.floating]) -> None:
    logits = HARD[name]().astype(dtype)
    best, columns = top_k_of_rows(logits, top_k)
    assert best.shape == columns.shape == (ROWS, top_k)
    assert np.array_equal(np.sort(best, axis=1), np.sort(logits, axis=1)[:, SLOTS - top_k :])
    assert np.array_equal(np.take_along_axis(logits, columns, axis=1), best)
    assert all(len(set(row)) == top_k for row in columns.tolist())


@pytest.mark.parametrize("column", [0, 700, 1000, 1002])
def test_a_single_nan_counts_as_the_largest(column: int) -> None:
    logits = RNG.random((ROWS, SLOTS))
    logits[3, column] = np.nan
    best, columns = top_k_of_rows(logits, 20)
    assert column in columns[3]
    assert np.isnan(best).sum(axis=1).tolist() == [int(row == 3) for row in range(ROWS)]


def test_nan_is_kept() -> None:
    logits = RNG.random((3, 1000))
    logits[1, 5] = np.nan
    logits[2] = np.nan
    best, columns = top_k_of_rows(logits, 20)
    assert np.isnan(best).sum(axis=1).tolist() == [0, 1, 20]
    assert 5 in columns[1]


def test_most_logits_are_ruled_out_before_the_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the speed rests on: only the maxima and the candidates are partitioned, never the whole rows."""
    partitioned = []
    real = np.partition
    monkeypatch.setattr(
        np, "partition", lambda array, *args, **kw: (partitioned.append(array.size), real(array, *args, **kw))[1]
    )
    monkeypatch.setattr(np, "argpartition", None)
    logits = RNG.standard_normal((50, 4096))
    top_k_of_rows(logits, 128)
    assert sum(partitioned) < logits.size / 5
