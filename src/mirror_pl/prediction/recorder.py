"""Rows on their way into parts of the store: whole batches, now and then, and at the end of each unit."""

from __future__ import annotations

import time
from typing import Final

from mirror_pl.detectors import Prediction
from mirror_pl.prediction.formats import as_table
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.rows import COLUMNS, Row, Tally, row_of
from mirror_pl.prediction.units import Part, digest_of
from mirror_pl.store import Store

_MOST_ROWS: Final = 4096
"""Of a part."""


class Recorder:
    """Writes predictions into a store, in parts of whole batches: those that are begun with again depend on nothing else.

    Args:
        store: Of the run.
        together: Items that are scored together, counted from the first of each unit.
        every_s: Seconds from one part to the next, at most; a killed process loses no more. 0 writes each batch.

    Attributes:
        tally: What its rows come to.
    """

    def __init__(self, store: Store, together: int, every_s: float = 10.0) -> None:
        self.store = store
        self.tally = Tally()
        self._together = together
        self._every_s = every_s
        self._rows: list[Row] = []
        self._items: list[Item] = []
        self._written = time.monotonic()

    def add(self, item: Item, prediction: Prediction) -> None:
        """Take the prediction of the item that follows the one before, in its unit or the next.

        Raises:
            OutputError: If a part cannot be written. What was written before is kept.
        """
        if self._items and self._items[-1].place.unit != item.place.unit:
            self.flush()
        row = row_of(item, prediction)
        self.tally.add(row)
        self._items.append(item)
        self._rows.append(row)
        is_late = len(self._rows) >= _MOST_ROWS or time.monotonic() - self._written >= self._every_s
        if item.place.is_last or (is_late and (item.place.row + 1) % self._together == 0):
            self.flush()

    def add_empty(self, part: Part) -> None:
        """Note that a unit holds no picture."""
        self.store.add(part.name, as_table([], COLUMNS))

    def flush(self) -> None:
        """Write what was taken."""
        if self._items:
            first, last = self._items[0].place, self._items[-1].place
            part = Part(first.unit, first.row, last.row + 1, digest_of(self._items), last.is_last)
            columns = tuple(dict.fromkeys((*COLUMNS, *(name for row in self._rows for name in row))))
            self.store.add(part.name, as_table(self._rows, columns))
        self._items, self._rows = [], []
        self._written = time.monotonic()

    def keep_whole_batches(self) -> None:
        """Write what was taken but for the last items where they are not all of a batch: when the work is stopped."""
        if self._items:
            whole = (self._items[-1].place.row + 1) // self._together * self._together - self._items[0].place.row
            self._items, self._rows = self._items[: max(whole, 0)], self._rows[: max(whole, 0)]
            self.flush()
