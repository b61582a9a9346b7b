"""What was uploaded and is not answered yet: in memory only, each file handed out once, dropped if nobody asks for it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

MEGABYTE: Final = 2**20
WAIT_S: Final = 900.0
"""An upload that no answer has asked for is dropped after this time."""
_OVERHEAD_BYTES: Final = 2**16
"""Of an upload, besides its files' bytes."""


@dataclass(frozen=True)
class UploadLimits:
    """What may be uploaded.

    Attributes:
        max_upload_mb: Of a file, in units of 2**20 bytes.
        max_files: In one batch.
    """

    max_upload_mb: float = 20.0
    max_files: int = 100

    @property
    def file_bytes(self) -> int:
        """Most bytes of a file."""
        return int(self.max_upload_mb * MEGABYTE)

    @property
    def all_bytes(self) -> int:
        """Most bytes that are held at a time, those of all users together: one batch of the largest files."""
        return self.max_files * self.file_bytes + _OVERHEAD_BYTES


class RefusedUploadError(Exception):
    """An upload that is not taken; the message says why, in words for who sent it.

    Attributes:
        status: Of the reply, as HTTP knows it.
    """

    def __init__(self, message: str, status: int = 413) -> None:
        super().__init__(message)
        self.status = status


class Uploads:
    """Files between their upload and their answer. Threads may share it; no two uploads share a name."""

    def __init__(self, limits: UploadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, float]] = {}
        self._arriving = 0

    @contextmanager
    def arriving(self, length: int) -> Iterator[None]:
        """Reserve room for an upload of `length` bytes while it arrives.

        Raises:
            RefusedUploadError: If it is too large, or others hold the room.
        """
        most = self.limits.all_bytes
        if length > most:
            raise RefusedUploadError(
                f"{length / MEGABYTE:,.1f} MB at once; at most {self.limits.max_files} files of "
                f"{self.limits.max_upload_mb:g} MB are taken"
            )
        with self._lock:
            self._drop_old()
            if self._held() + self._arriving + length > most:
                raise RefusedUploadError("The server holds as many pictures as it may. Try again in a moment.", 503)
            self._arriving += length
        try:
            yield
        finally:
            with self._lock:
                self._arriving -= length

    def keep(self, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Hold files, given by name and content, and return the keys that they are fetched by: ``TOKEN/NAME``."""
        keys = [f"{secrets.token_hex(16)}/{PurePosixPath(name).name or 'picture'}" for name, _ in files]
        with self._lock:
            self._files.update((key, (content, self._clock())) for key, (_, content) in zip(keys, files, strict=True))
        return keys

    def take(self, key: str) -> bytes | None:
        """Hand out a file and forget it; None if there is none."""
        with self._lock:
            found = self._files.pop(key, None)
        return None if found is None else found[0]

    def drop_old(self) -> None:
        """Forget what nobody has asked for in `WAIT_S`."""
        with self._lock:
            self._drop_old()

    def __len__(self) -> int:
        return len(self._files)

    def _drop_old(self) -> None:
        oldest = self._clock() - WAIT_S
        for key in [key for key, (_, when) in self._files.items() if when < oldest]:
            del self._files[key]

    def _held(self) -> int:
        return sum(len(content) for content, _ in self._files.values())
