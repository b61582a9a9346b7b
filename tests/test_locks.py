"""A folder is one process's at a time, also where the one before lets go at the very moment that another one comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mirror_pl.errors import ConfigError
from mirror_pl.files import FolderLock

TRY = "import sys; from pathlib import Path; from mirror_pl.files import FolderLock; FolderLock(Path(sys.argv[1])).take()"


def is_free(path: Path) -> bool:
    return subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True, check=False).returncode == 0


def test_one_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / ".lock")
    lock.take()
    assert not is_free(tmp_path / ".lock")
    lock.release()
    assert not (tmp_path / ".lock").exists()
    assert is_free(tmp_path / ".lock")
    lock.release()  # twice does no harm


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was opened, and then the process before removed it: whoever comes next would lock a new file."""
    path, opened = tmp_path / ".lock", os.open

    def open_late(name: Path, *args: int) -> int:
        descriptor = opened(name, *args)
        monkeypatch.setattr(os, "open", opened)
        path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    lock = FolderLock(path)
    lock.take()
    assert path.exists()
    assert not is_free(path), "the lock is on the file that others find"


def test_what_is_at_work_is_said(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{TRY}; print('held', flush=True); sys.stdin.read()", str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match="another process is at work"):
        FolderLock(tmp_path / ".lock").take()
    holder.kill()
    holder.wait()
    FolderLock(tmp_path / ".lock").take()
