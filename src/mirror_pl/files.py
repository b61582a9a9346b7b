"""Files and folders written whole or not at all: under a temporary name beside the place, then renamed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
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


def read_text(path: Path, limit: int = 2**22) -> str:
    """Read the UTF-8 text of a file that is small by its nature, such as a config.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than `limit` bytes, or is not UTF-8.
    """
    with path.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} is too large: expected {limit} bytes at most, got {path.stat().st_size}")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file that is small by its nature.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large, nested too deeply, or no JSON.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def open_stored_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive whose members take no more memory than disk, as `torch.save` and `numpy.savez` write them.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or a member is compressed, or members overlap: a small file could then fill the memory;
            or if there are bytes around the archive, in which another reader might see another one.
    """
    size = path.stat().st_size
    with path.open("rb") as opened:
        opened.seek(max(0, size - 42))
        tail = opened.read()
    try:
        archive = zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds on a damaged archive
        raise ValueError(f"damaged archive: {error}") from error
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    problem = None
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size or member.flag_bits & 1:
            problem = f"its member {member.filename} is compressed or encrypted: {member.file_size} bytes"
            break
    if total > size:
        problem = problem or f"its members overlap: they say that they are {total} bytes, and the file has {size}"
    # What another reader, such as torch's, could find elsewhere: the first member, the end, and the end's 64-bit form.
    far = tail[:4] == b"PK\x06\x07" and int.from_bytes(tail[8:16], "little") != size - 98
    if far or archive.comment or (members and min(member.header_offset for member in members)):
        problem = problem or "there is something around the archive"
    if problem:
        archive.close()
        raise ValueError(problem)
    return archive


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
