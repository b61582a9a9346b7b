"""Rows as a file, by its suffix: streamed, so that memory does not depend on how many there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from mirror_pl.errors import ConfigError, nearest
from mirror_pl.prediction.rows import Row
from mirror_pl.texts import write_csv

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
        raise ConfigError(f"output: {output} must end in {', '.join(_WRITERS)}, which says in what form it is.{hint}")
    return writer


def as_line(row: Row) -> bytes:
    """Return a row as a line of JSON, line break included."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write_json(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    del columns
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("[")
        for number, row in enumerate(rows):
            shown = {"image_path": row["image_path"], "pred": UNSCORED if row["pred"] is None else row["pred"]}
            file.write((",\n" if number else "\n") + json.dumps(shown, ensure_ascii=False))
        file.write("\n]\n")


def _write_json_lines(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    del columns
    with path.open("wb") as file:
        file.writelines(map(as_line, rows))


def _write_csv(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, chain([columns], ([_cell(row.get(name)) for name in columns] for row in rows)))


def _cell(value: Any) -> Any:
    return " ".join("nan" if number is None else str(number) for number in value) if isinstance(value, list) else value


def _write_parquet(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {name: pa.string() for name in ("image_path", "status", "reason")}
    kinds = {"crops": pa.list_(pa.float32()), **texts}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.float32()), nullable=name not in texts) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        for group in _groups(rows):
            writer.write_table(pa.table({name: [row.get(name) for row in group] for name in columns}, schema=schema))


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while group := list(islice(left, ROW_GROUP)):
        yield group


_WRITERS: Final[dict[str, Writer]] = {
    ".json": _write_json,
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
