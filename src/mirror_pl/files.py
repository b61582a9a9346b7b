"""Files and folders written whole or not at all: under a temporary name beside the place, then renamed."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, TextIO

from mirror_pl.errors import OutputError

RACY_NS = 2_000_000_000
"""A file or folder that changed this shortly ago may change again without a new time; what is known of it is not kept."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` when the block ends without an error.

    Raises:
        OutputError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _as_output_error(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; it becomes `path`, which must not exist, when the block ends well.

    Raises:
        OutputError: If it cannot be written.
    """
    with _as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(
                default_mode() | (default_mode() & 0o444) >> 2
            )  # mkdtemp makes folders that only their owner can read
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; give another place") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


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


@cache
def _sha256_in_state(path: Path, state: tuple[Any, ...]) -> str:
    del state
    return path_sha256(path)


def kept_sha256(path: Path) -> str:
    """Return `path_sha256`, read anew only where the path has changed since this process last asked."""
    return _sha256_in_state(path.resolve(), path_state(path))


def path_sha256(path: Path) -> str:
    """Return the SHA-256, in hexadecimal, of a file; of a folder, that of the names and hashes of its files."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            digest.update(f"{file.name}\0{path_sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


_BLOCK_BYTES = 2**20


def path_state(path: Path) -> tuple[tuple[str | int, ...], ...]:
    """Return what changes when a file, or a file of a folder, is written: its name, size, inode and times of change.

    Nothing is read of the files themselves. What is not there has the state ``()``.
    """
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)


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


def default_mode() -> int:
    """Return the permissions that this process gives a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
