"""Locks on folders, so that two processes do not go on with the same work."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from mirror_pl.errors import ConfigError, OutputError


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
