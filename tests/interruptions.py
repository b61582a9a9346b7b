"""Runs of training that are stopped on the way: in this process after a save, and by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest


class Stopped(BaseException):
    """As sudden as a kill, as far as one can be inside a test."""


@contextmanager
def stopped_after_saves(monkeypatch: pytest.MonkeyPatch, saves: int = 1) -> Iterator[None]:
    """Stop the training inside after it has saved what it is resumed from so many times; it must come to that."""
    save, done = pl.Trainer.save_checkpoint, 0

    def save_and_stop(self: pl.Trainer, filepath: Any, *args: Any) -> None:
        nonlocal done
        save(self, filepath, *args)
        done += Path(filepath).name == "last.ckpt"
        if done == saves:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(pl.Trainer, "save_checkpoint", save_and_stop)
        yield


def run_with_kills(command: Sequence[str], output: Path, pauses: Sequence[float]) -> int:
    """Run a training to its end, killing it some seconds after it saved a state, once a pause; return how often it was."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    state, kills = output / "last.ckpt", 0
    for pause in pauses:
        more = ["resume=true"] if (output / "config.yaml").exists() else []
        process = subprocess.Popen([*command, *more], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stamp = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None:
            if state.exists() and state.stat().st_mtime_ns != stamp:
                time.sleep(pause)
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                break
            time.sleep(0.01)
    if not (output / "run.json").exists():
        subprocess.run([*command, "resume=true"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return kills
