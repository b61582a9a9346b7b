"""Texts of others, such as names of files, made fit for where they go: a terminal, a file, a table."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Iterable, Sequence
from operator import eq
from typing import Final, TextIO, overload


def printable(text: object) -> str:
    r"""Return a text, such as a path, as a terminal may show it, on one line: what would steer it becomes an escape.

    Those are control characters, line breaks among them (``\n``, ``\x1b``), marks that turn the direction of writing
    (``\u202e``), and all that `storable` escapes.
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), storable(text))


_STEERING: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def storable(path: object) -> str:
    r"""Return a path as text that is valid UTF-8, for files; bytes of a name that are not become ``\xNN``."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_csv(file: TextIO, rows: Iterable[Iterable[object]], end: str = "\n") -> None:
    """Write rows of texts and numbers as CSV; None is an empty cell.

    Spreadsheets compute what begins like a formula. A text that does, such as the name of a file, which whoever made the
    file chose, gets an apostrophe; a number stays as it is, also where it is text, and so do several with spaces between.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # it quotes a text with either of the two only where they end a line
    for row in rows:
        writer.writerow([_inert(value) for value in row])
        file.write(buffer.getvalue()[: -len("\r\n")] + end)
        buffer.seek(0)
        buffer.truncate()


def csv_text(rows: Iterable[Iterable[object]], end: str = "\n") -> str:
    """Return what `write_csv` writes."""
    buffer = io.StringIO()
    write_csv(buffer, rows, end)
    return buffer.getvalue()


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a formula may begin, by OWASP's list; the last four are the first four in full width."""


def _inert(value: object) -> object:
    if not (isinstance(value, str) and value.startswith(_FORMULA)):
        return value
    try:
        return value if [*map(float, value.split())] else f"'{value}"
    except ValueError:
        return f"'{value}"


class Texts(Sequence[str]):
    """Many texts in one piece of memory, which processes forked from this one share: Python counts uses of each text in it.

    A million paths of 100 characters take 108 MB once, where a list of them takes 157 MB in each process that reads it.

    Args:
        texts: File names may be among them.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        content, ends = bytearray(), array("q", [0])
        for text in texts:
            content += text.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Return the text at a place, or a list of those in a slice."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        one = range(len(self))[place]
        return self._content[self._ends[one] : self._ends[one + 1]].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of lists
