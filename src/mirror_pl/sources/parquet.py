"""Images embedded in a Parquet file, listed without reading one, and read by row: a member's place is its row.

What a row is called: the ``path`` that Hugging Face's Image feature keeps beside its bytes, where that is fit to be one, or
else the row's number. A row whose name has no suffix is known by its content alone, which is looked at when it is decoded.
"""

from __future__ import annotations

import json
import os
import re
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror_pl.sources.members import Member
from mirror_pl.sources.place import stat_of

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow is imported where it is used: who reads no Parquet file need not wait for it.

LABEL_COLUMNS: Final = ("label", "labels", "is_fake", "class")
"""Columns that labels are looked for in, whatever the letter case."""
KEPT_BYTES: Final = 2**28
"""Of images that a process keeps, where rows are asked for in no order."""
_OPEN_FILES: Final = 32
_LONGEST_NAME: Final = 1000
_LONGEST_LABEL: Final = 100
_FEW_ROWS: Final = 64
_LEAST_BYTES: Final = 16
"""Of a picture; a file that holds fewer for each of its rows says so to fill the memory."""


def list_parquet(path: Path, label: str | None = None) -> list[Member]:
    """List the rows of a Parquet file, in their order.

    Args:
        path: The file.
        label: Column that labels are in; None takes the first of `LABEL_COLUMNS` that is there, if any.

    Raises:
        OSError: If the file cannot be read, is damaged, or has no column of images, or none called `label`.
    """
    import pyarrow.parquet as pq

    with _in_words():
        metadata = pq.read_metadata(_openable(path))
        schema, rows = metadata.schema.to_arrow_schema(), metadata.num_rows
        column = _image_column(schema)
        label_column = _label_column(schema, label)
        if rows * _LEAST_BYTES > (size := stat_of(path).st_size):
            raise OSError(f"a file of {size:,} bytes that says it holds {rows:,} pictures")
        names: list[Any] = [None] * rows
        labels: list[Any] = [None] * rows
        if _has_field(schema.field(column).type, "path", _is_text):
            names = _column(path, rows, column, "path")
        if label_column is not None:
            labels = _column(path, rows, label_column)
        called = _class_names(schema, label_column)
    width = len(str(max(0, rows - 1)))
    uses = Counter(name for name in names if name is not None)
    members = []
    for row, (name, value) in enumerate(zip(names, labels, strict=True)):
        # A path that looks like another row's number might be that row's name.
        is_fit = name is not None and uses[name] == 1 and _is_fit(name) and not (name.isdecimal() and len(name) == width)
        text = None if label_column is None else _label_text(value, called)
        members.append(Member(name if is_fit else f"{row:0{width}}", row, -1, label=text))
    return members


def _image_column(schema: pa.Schema) -> str:
    structs = [field.name for field in schema if _has_field(field.type, "bytes", _is_binary)]
    plain = [field.name for field in schema if _is_binary(field.type)]
    found = [name for name in (*structs, *plain) if schema.names.count(name) == 1]
    if not found:
        columns = ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in list(schema)[:20])
        raise OSError(
            f"no column of images, which is binary or a struct with binary 'bytes'; its columns are {columns or 'none'}"
        )
    return found[0]


def _label_column(schema: pa.Schema, wanted: str | None) -> str | None:
    if wanted is not None:
        if schema.names.count(wanted) != 1:
            raise OSError(f"no column {wanted!r} of labels; its columns are {', '.join(schema.names[:20])}")
        return wanted
    by_folded = {name.casefold(): name for name in reversed(schema.names)}
    return next((by_folded[name] for name in LABEL_COLUMNS if name in by_folded), None)


def _has_field(kind: pa.DataType, name: str, is_right: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0 and is_right(kind.field(name).type)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _column(path: Path, rows: int, column: str, field: str | None = None) -> list[Any]:
    """Return a column, or a field of one of structs; texts cut where they are too long for what they are to be."""
    import pyarrow.parquet as pq

    leaf = column if field is None else f"{column}.{field}"
    found: list[Any] = []
    with pq.ParquetFile(_openable(path), pre_buffer=False) as file:
        # Few at a time: a small file may say the same long text for millions of rows.
        for batch in file.iter_batches(_FEW_ROWS, columns=[leaf], use_threads=False):
            values = batch.column(column) if field is None else batch.column(column).field(field)
            found += [value[: _LONGEST_NAME + 1] if isinstance(value, str) else value for value in values.to_pylist()]
    if len(found) != rows:
        raise OSError(f"its column {leaf} has {len(found)} rows of {rows}")
    return found


def _openable(path: Path) -> Any:
    """Return what pyarrow opens: a file on this machine by its path, which is fastest."""
    return path if isinstance(path, Path) else path.open("rb")


def _is_fit(name: str) -> bool:
    """Whether a path may be a part of an image's name: relative, tidy, and of one meaning on every system."""
    steps = name.split("/")
    return len(name) <= _LONGEST_NAME and not _UNFIT.search(name) and not {"", ".", ".."} & set(steps)


_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f\\:]")


def _class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Return the names that Hugging Face's ClassLabel keeps of a column's numbers; None where it is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if isinstance(names, dict):  # an older form of the same
        names = names.get("names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _label_text(value: Any, names: list[str] | None) -> str:
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value][:_LONGEST_LABEL]
    return ("null" if value is None else str(int(value) if isinstance(value, bool) else value))[:_LONGEST_LABEL]


def read_row(path: Path, row: int, _size: int = -1) -> bytes:
    """Return the bytes of the image in a row.

    Rows asked for in rising order are read once, as they come, and none is kept. Where they are asked for in no order, up to
    `KEPT_BYTES` of those that are passed on the way are kept for later. Each process opens the file for itself.

    Raises:
        OSError: If the file cannot be read, is damaged, has no such row, or the row is null.
    """
    with _in_words():
        content = _reader.read(path, row)
    if content is None:
        raise OSError(f"row {row} of {path.name} holds no image: it is null")
    return content


class _Table:
    """A Parquet file, open, and how far it was read."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        # Buffered: else all of a row group's column would be read at once.
        self.file = pq.ParquetFile(_openable(path), buffer_size=2**20, pre_buffer=False)
        schema = self.file.schema_arrow
        column = _image_column(schema)
        self.is_struct = not _is_binary(schema.field(column).type)
        self.leaf = f"{column}.bytes" if self.is_struct else column
        groups = range(self.file.num_row_groups)
        self.starts = [0, *accumulate(self.file.metadata.row_group(group).num_rows for group in groups)]
        self.next = self.group = -1
        self.rows: Iterator[Any] = iter(())
        self.in_order = True

    def advance(self, row: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the rows up to `row`, from where it was read to, or else from the beginning of its group."""
        group = bisect_right(self.starts, row) - 1
        if group != self.group or row < self.next:
            self.in_order &= row >= self.next
            self.group, self.next = group, self.starts[group]
            self.rows = self.file.iter_batches(1, row_groups=[group], columns=[self.leaf], use_threads=False)
        while self.next <= row:
            column = next(self.rows).column(0)
            value = (column.field("bytes") if self.is_struct else column)[0]
            here, self.next = self.next, self.next + 1
            if here == row or not self.in_order:
                yield here, value.as_py()


class _Reader:
    """The Parquet files that this process reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[Any, ...], _Table] = OrderedDict()
        self._kept: OrderedDict[tuple[Any, ...], bytes | None] = OrderedDict()
        self._kept_bytes = 0

    def read(self, path: Path, row: int) -> bytes | None:
        status = stat_of(path)
        key = (str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if (*key, row) in self._kept:
                self._kept.move_to_end((*key, row))
                return self._kept[(*key, row)]
            if key not in self._tables:
                self._tables[key] = _Table(path)
                if len(self._tables) > _OPEN_FILES:
                    _, oldest = self._tables.popitem(last=False)
                    oldest.file.close()
            self._tables.move_to_end(key)
            table = self._tables[key]
            if not 0 <= row < table.starts[-1]:
                raise OSError(f"{path.name} has {table.starts[-1]} rows, and no row {row}")
            found = None
            try:
                for here, content in table.advance(row):
                    found = content
                    if not table.in_order:
                        self._keep((*key, here), content)
            except BaseException:  # it is in no state to go on from
                del self._tables[key]
                raise
            return found

    def _keep(self, key: tuple[Any, ...], content: bytes | None) -> None:
        if key in self._kept:
            return
        self._kept[key] = content
        self._kept_bytes += len(content or b"")
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest or b"")


_reader = _Reader()


def _forget() -> None:
    """Begin anew: a process made by a fork has a copy of the other's reader, whose lock may be held for ever."""
    global _reader
    _reader = _Reader()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def _in_words() -> Iterator[None]:
    """Raise what pyarrow raises on a damaged file as an OSError, in one line."""
    try:
        yield
    except OSError as error:
        if error.strerror or "\n" not in str(error):
            raise
        raise OSError(str(error).partition("\n")[0]) from error
    except MemoryError:
        raise
    except Exception as error:  # it raises many kinds, StopIteration among them where rows are missing
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OSError(f"not a Parquet file that can be read: {reason}") from error
