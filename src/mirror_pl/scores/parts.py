"""Scores of some images of an index, and how they are kept until there is a prediction table."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.scores.table import Status
from mirror_pl.store import Store
from mirror_pl.texts import storable

_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("status", pa.int8(), nullable=False),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("p_fake", pa.float32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PartialScores:
    """What became of some images of an index, in any order.

    Attributes:
        ids: ``(P,)`` int64.
        statuses: ``(P,)`` int8 of `Status`.
        logits: ``(P,)`` float32; NaN where there is none.
        p_fake: ``(P,)`` float32; likewise.
        reasons: Why an image was not read as it should have been, by its id; for those alone where there is a reason.
    """

    ids: NDArray[np.int64]
    statuses: NDArray[np.int8]
    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def none(cls) -> PartialScores:
        """Return the scores of no image."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.float32), np.empty(0, np.float32), {})

    def once(self) -> PartialScores:
        """Return them with each image once, as it came first."""
        _, first = np.unique(self.ids, return_index=True)
        return self.at(np.sort(first))

    def at(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> PartialScores:
        """Return those at some places."""
        ids = self.ids[places]
        reasons = self.reasons if len(ids) == len(self.ids) else {i: self.reasons[i] for i in ids if i in self.reasons}
        return PartialScores(ids, self.statuses[places], self.logits[places], self.p_fake[places], reasons)

    def keep(self, store: Store, rank: int) -> None:
        """Write them as a part of a store.

        Args:
            store: Of the run.
            rank: Of this process; part of the part's name, which no other part has.

        Raises:
            OutputError: If they cannot be written.
        """
        reasons = [storable(self.reasons.get(int(i), "")) for i in self.ids]
        columns = [self.ids, self.statuses, self.logits, self.p_fake]
        arrays = [*map(pa.array, columns), pa.array(reasons, pa.string())]
        store.add(f"{rank:04d}-{secrets.token_hex(6)}", pa.Table.from_arrays(arrays, schema=_SCHEMA))


def join(parts: list[PartialScores]) -> PartialScores:
    """Put scores one after the other."""
    if not parts:
        return PartialScores.none()
    return PartialScores(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.statuses for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.p_fake for part in parts]),
        {i: reason for part in parts for i, reason in part.reasons.items()},
    )


def read_parts(store: Store) -> PartialScores:
    """Read the scores in a store; each image once.

    Raises:
        DataError: If a part belongs to another run, cannot be read, or holds no scores.
    """
    return join([_read(store, name) for name in store.names()]).once()


def _read(store: Store, name: str) -> PartialScores:
    table = store.read(name)
    if not table.schema.equals(_SCHEMA):
        raise store.damaged(name, "its columns are others")
    if any(column.null_count for column in table.columns):
        raise store.damaged(name, "a value is missing")
    ids, statuses, logits, p_fake = (table[name].to_numpy().copy() for name in _SCHEMA.names[:4])
    if ids.min(initial=0) < 0 or not set(statuses.tolist()) <= set(Status):
        raise store.damaged(name, "an id or a status is out of range")
    with_reason = {int(i): reason for i, reason in zip(ids, table["reason"].to_pylist(), strict=True) if reason}
    return PartialScores(ids, statuses, logits, p_fake, with_reason)
