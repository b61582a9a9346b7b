"""Rows as a file, by its suffix: streamed, so that memory does not depend on how many there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror_pl.errors import ConfigError, nearest
from mirror_pl.prediction.rows import Row, number
from mirror_pl.texts import write_csv

if TYPE_CHECKING:
    import pyarrow as pa

Writer = Callable[[Path, Iterable[Row], Sequence[str]], None]

ROW_GROUP: Final = 2**13
"""Rows that a Parquet file has in memory at a time."""
UNSCORED: Final = -1
"""``pred`` in a JSON file of a picture without a score."""


def writer_of(output: Path) -> Writer:
    """Return what writes a file of that name: path, rows, and the columns of a table.

    ======== =========================================================================================================
    .json    a list of ``{"image_path": ..., "pred": ...}``, as challenges ask for it; `UNSCORED` where there is no score
    .jsonl   an object a line, with all columns; null where there is no score
    .csv     all columns; empty where there is no score; ``crops`` separated by spaces
    .parquet all columns; null where there is no score; ``crops`` a list
    ======== =========================================================================================================

    Raises:
        ConfigError: If there is none for that suffix.
    """
    writer = _WRITERS.get(output.suffix.lower())
    if writer is None:
        hint = nearest(output.suffix, _WRITERS) if output.suffix else ""
        raise ConfigError(
            f"output: {output} must end in {', '.join(_WRITERS)}, which says in what form it is, or in none.{hint}"
        )
    return writer


def as_line(row: Row) -> bytes:
    """Return a row as a line of JSON, line break included."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write_json(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    del columns
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("[")
        for place, row in enumerate(rows):
            shown = {"image_path": row["image_path"], "pred": UNSCORED if row["pred"] is None else row["pred"]}
            file.write((",\n" if place else "\n") + json.dumps(shown, ensure_ascii=False))
        file.write("\n]\n")


def _write_json_lines(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    del columns
    with path.open("wb") as file:
        file.writelines(map(as_line, rows))


def _write_csv(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, chain([columns], ([_cell(row.get(name)) for name in columns] for row in rows)))


def _cell(value: Any) -> Any:
    return " ".join("nan" if one is None else str(one) for one in value) if isinstance(value, list) else value


def as_table(rows: Sequence[Row], columns: Sequence[str]) -> pa.Table:
    """Return rows as a table, which `rows_of` reads."""
    import pyarrow as pa

    texts = {name: pa.string() for name in ("image_path", "status", "reason")}
    kinds = {"crops": pa.list_(pa.float32()), **dict.fromkeys(("verdict", "origin", "origin_detail"), pa.string()), **texts}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.float32()), nullable=name not in texts) for name in columns])
    return pa.table({name: [row.get(name) for row in rows] for name in columns}, schema=schema)


def rows_of(table: pa.Table, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table, with all of `columns`: None for those that it has not."""
    values = {name: table[name].to_pylist() for name in table.column_names}
    for name, column in values.items():
        if name == "crops":
            values[name] = [[number(value) for value in crops] for crops in column]
        elif table.schema.field(name).type == "float":
            values[name] = [number(value) for value in column]
    nothing = [None] * len(table)
    for cells in zip(*(values.get(name, nothing) for name in columns), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _write_parquet(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    import pyarrow.parquet as pq

    left = iter(rows)
    with pq.ParquetWriter(path, as_table([], columns).schema) as writer:
        while group := list(islice(left, ROW_GROUP)):
            writer.write_table(as_table(group, columns))


_WRITERS: Final[dict[str, Writer]] = {
    ".json": _write_json,
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
