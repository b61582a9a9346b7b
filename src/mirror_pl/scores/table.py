"""The prediction table: one row per image and subset. It is the record; everything reported is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mirror_pl.files import whole_file
from mirror_pl.texts import storable


class Status(IntEnum):
    """What became of an image; the table holds the name in lower case."""

    OK = 0
    TRUNCATED = 1
    """The file ends early; it was decoded as far as it goes, and scored."""
    UNDECODABLE = 2
    """No image could be read from the file; it has no score and enters no metric."""
    NON_FINITE = 3
    """The detector's score is NaN or infinite; it enters no metric."""

    def __str__(self) -> str:
        return self.name.lower()


SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("benchmark", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("subset", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("logit", pa.float32()),
        pa.field("p_fake", pa.float32()),
    ]
)
"""``path`` is relative to data_root, with forward slashes; ``label`` 0 real, 1 fake; ``logit`` and ``p_fake`` are null
where ``status`` is "undecodable" or "non_finite"."""

CALIBRATED_SCHEMA = SCHEMA.append(pa.field("raw_logit", pa.float32()))
"""Of calibrated runs: ``logit`` and ``p_fake`` are calibrated, and ``raw_logit`` is the detector's own."""

SCORED = (Status.OK, Status.TRUNCATED)
"""Statuses of images that have a score."""


def make_table(
    *,
    ids: NDArray[np.integer],
    paths: Sequence[str],
    benchmark: str,
    subsets: Sequence[str],
    subset_ids: NDArray[np.integer],
    labels: NDArray[np.integer],
    statuses: NDArray[np.integer],
    logits: NDArray[np.float32],
    p_fake: NDArray[np.float32],
    raw_logits: NDArray[np.float32] | None = None,
) -> pa.Table:
    r"""Assemble the table from columns of equal length R, one entry per image and subset.

    Args:
        ids: ``(R,)``, of the images; one that several subsets share stands in a row of each.
        paths: Relative to data_root. Bytes that are not UTF-8 are written as ``\xNN``.
        benchmark: Its name.
        subsets: Names that `subset_ids` point into.
        subset_ids: ``(R,)``.
        labels: ``(R,)``.
        statuses: ``(R,)`` of `Status`.
        logits: ``(R,)``; ignored where the status says that there is none.
        p_fake: ``(R,)``; likewise.
        raw_logits: ``(R,)``, the detector's own, where the others are calibrated.
    """
    size = len(paths)
    columns = [
        pa.array(np.asarray(ids, np.int64)),
        pa.array([storable(path) for path in paths], pa.string()),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), [benchmark]),
        pa.DictionaryArray.from_arrays(pa.array(np.asarray(subset_ids, np.int32)), list(subsets)),
        pa.array(np.asarray(labels, np.int8)),
        *_scores(statuses, logits, p_fake, raw_logits),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA if raw_logits is None else CALIBRATED_SCHEMA)


def with_scores(
    table: pa.Table,
    *,
    statuses: NDArray[np.integer],
    logits: NDArray[np.float32],
    p_fake: NDArray[np.float32],
    raw_logits: NDArray[np.float32] | None = None,
) -> pa.Table:
    """Return the table of the same images with other scores, and the rest of it shared; see `make_table`."""
    kept = table.columns[: SCHEMA.get_field_index("status")]
    return pa.Table.from_arrays([*kept, *_scores(statuses, logits, p_fake, raw_logits)], schema=table.schema)


def _scores(
    statuses: NDArray[np.integer],
    logits: NDArray[np.float32],
    p_fake: NDArray[np.float32],
    raw_logits: NDArray[np.float32] | None,
) -> list[pa.Array]:
    unscored = ~np.isin(statuses, SCORED)
    numbers = [logits, p_fake, *([] if raw_logits is None else [raw_logits])]
    names = [str(status) for status in Status]
    return [
        pa.DictionaryArray.from_arrays(pa.array(np.asarray(statuses, np.int32)), names),
        *(pa.array(values, pa.float32(), mask=unscored) for values in numbers),
    ]


def write_table(table: pa.Table, path: Path) -> None:
    """Write the table as Parquet, whole or not at all."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def read_table(path: Path) -> pa.Table:
    """Read a table written by `write_table`, of a calibrated run or another."""
    calibrated = "raw_logit" in pq.read_schema(path).names
    return pq.read_table(path, schema=CALIBRATED_SCHEMA if calibrated else SCHEMA)


def raw_logits(table: pa.Table) -> NDArray[np.float32]:
    """Return the detector's own logits ``(R,)`` float32, calibrated or not; NaN where there is no score."""
    logits: NDArray[np.float32] = table["raw_logit" if "raw_logit" in table.column_names else "logit"].to_numpy()
    return logits
