"""What was uploaded and is not answered yet: in memory only, each file handed out once, dropped if nobody asks for it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

MEGABYTE: Final = 2**20
WAIT_S: Final = 900.0
"""An upload that no answer has asked for is dropped after this time."""
MOST_AT_ONCE: Final = 8
"""Uploads of one client that may be on their way at a time."""
_OVERHEAD_BYTES: Final = 2**16
"""Of an upload, besides its files' bytes."""
_FILE_BYTES: Final = 2**10
"""Of a file, besides its content: without it, empty files would cost nothing."""


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
    def client_bytes(self) -> int:
        """Most bytes of one client that are held at a time: one batch of the largest files."""
        return self.max_files * self.file_bytes + _OVERHEAD_BYTES

    @property
    def all_bytes(self) -> int:
        """Most bytes that are held at a time: one client that takes all it may leaves as much to the others."""
        return 2 * self.client_bytes


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
        self._files: dict[str, tuple[bytes, float, str]] = {}
        self._arriving: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def arriving(self, length: int, client: str) -> Iterator[Callable[[int], None]]:
        """Let a client's upload arrive, and give what is to be told of each part's size before that part is kept.

        Room is taken by what has arrived: who only announces `length` bytes keeps nobody else out.

        Raises:
            RefusedUploadError: If it is too large, or the client has too many on their way; from what was given, if the
                client or all together hold as much as they may.
        """
        if length > self.limits.client_bytes:
            raise RefusedUploadError(
                f"{length / MEGABYTE:,.1f} MB at once; at most {self.limits.max_files} files of "
                f"{self.limits.max_upload_mb:g} MB are taken"
            )
        taken = 0

        def arrived(size: int) -> None:
            nonlocal taken
            with self._lock:
                self._drop_old()
                if (
                    self._bytes[client] + size > self.limits.client_bytes
                    or self._bytes.total() + size > self.limits.all_bytes
                ):
                    raise RefusedUploadError("The server holds as many pictures as it may. Try again in a moment.", 503)
                self._bytes[client] += size
                taken += size

        with self._lock:
            if self._arriving[client] == MOST_AT_ONCE:
                raise RefusedUploadError(f"{MOST_AT_ONCE} uploads are on their way already. Try again in a moment.", 503)
            self._arriving[client] += 1
        try:
            yield arrived
        finally:
            with self._lock:
                self._arriving -= Counter({client: 1})  # which forgets who has none left
                self._bytes -= Counter({client: taken})

    def keep(self, contents: Sequence[bytes], client: str) -> list[str]:
        """Hold a client's files, and return the keys that they are fetched by, in which nothing is its choice."""
        keys = [secrets.token_hex(16) for _ in contents]
        with self._lock:
            self._files.update((key, (content, self._clock(), client)) for key, content in zip(keys, contents, strict=True))
            self._bytes[client] += sum(map(_cost, contents))
        return keys

    def take(self, key: str) -> bytes | None:
        """Hand out a file and forget it; None if there is none."""
        with self._lock:
            return self._forget(key) if key in self._files else None

    def drop_old(self) -> None:
        """Forget what nobody has asked for in `WAIT_S`."""
        with self._lock:
            self._drop_old()

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def _drop_old(self) -> None:
        oldest = self._clock() - WAIT_S
        for key in [*takewhile(lambda key: self._files[key][1] < oldest, self._files)]:  # they are in order of time
            self._forget(key)

    def _forget(self, key: str) -> bytes:
        content, _, client = self._files.pop(key)
        self._bytes -= Counter({client: _cost(content)})
        return content


def _cost(content: bytes) -> int:
    return len(content) + _FILE_BYTES
