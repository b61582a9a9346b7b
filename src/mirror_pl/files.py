"""Files that are written whole or not at all, hashes that are kept, and locks on folders."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from mirror_pl.errors import ConfigError, OutputError

RACY_NS = 2_000_000_000
"""A file or folder that changed this shortly ago may change again without a new time; what is known of it is not kept."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` when the block ends without an error.

    Raises:
        OutputError: If it cannot be written.
    """
    # Random: processes of other machines, and threads, may have the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with _as_output_error(path):
        try:
            yield temporary
            _to_disk(temporary)
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
            for file in temporary.rglob("*"):
                if file.is_file():
                    _to_disk(file)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def claim(path: Path, text: str) -> None:
    """Write a new file of UTF-8 text, whole or not at all; an empty one, left by whom a full disk stopped, counts as none.

    Raises:
        FileExistsError: If there is one: of two processes that want it, one gets it.
        OSError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        _to_disk(temporary)
        with suppress(FileNotFoundError):
            if path.is_file() and not path.stat().st_size:
                path.unlink()
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with path.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Have the system write a file to its disk, so that a name never stands for less after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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


def read_yaml(path: Path, limit: int = 2**22) -> Any:
    """Read a YAML file that is small by its nature: plain values, not nested deeply, and without aliases.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large, damaged, nested deeply, or has aliases, by which a few lines stand for any number.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text, depth = read_text(path, limit), 0
    try:
        for event in yaml.parse(text, Loader=loader):  # before anything is built
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 20 or isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{path.name} is nested deeply, or has aliases; expected plain keys and values")
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is no YAML, or nested deeply: {' '.join(str(error).split())}") from error


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


@cache
def _sha256_in_state(path: Path, state: tuple[Any, ...]) -> str:
    del state
    return path_sha256(path)


def kept_sha256(path: Path) -> str:
    """Return `path_sha256`, read anew only where the path has changed since this process last asked."""
    return _sha256_in_state(path.resolve(), path_state(path))


def path_sha256(path: Path) -> str:
    """Return the SHA-256, in hexadecimal, of a file; of a folder, that of the names and hashes of its files.

    Its README, and files that are hidden, such as those by which a repository is kept, count for nothing.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.name == "README.md" or file.name.startswith("."):
                continue
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


def default_mode() -> int:
    """Return the permissions that this process gives a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


class FolderLock:
    """A lock on a file, held by this process until it lets go or ends, however it ends.

    It is the process's alone: what it forks, such as decoding processes that outlive it for a moment, does not hold it; a
    lock of the filelock package they would hold. Where a file system knows no locks, there is none.

    Args:
        path: The file; made when the lock is taken, and removed when it is released. A lock on a file that was removed
            meanwhile is none: another process may hold one on the new file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            ConfigError: If another process holds it.
            OutputError: If the file cannot be made.
        """
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        while True:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise OutputError(f"{self.path} cannot be written: {error.strerror}; give another place") from error
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    return
                os.close(self._descriptor)
                self._descriptor = None
                raise ConfigError(
                    f"output_dir: another process is at work in {self.path.parent}; wait for it, or give another output_dir"
                ) from error
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    return
            os.close(self._descriptor)

    def release(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
                os.close(self._descriptor)
            self._descriptor = None
