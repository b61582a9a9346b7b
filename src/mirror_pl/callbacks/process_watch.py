"""When one of several processes dies, the others end too, at once and with a message: they would wait for it for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from mirror_pl.errors import EXIT_DEFECT, LostProcessError

POLL_S = 0.3
"""Seconds between two looks. Lightning looks every 5 s, and kills without a word."""
GRACE_S = 3.0
"""How long a process that lost the connection looks for a dead one, which may be why."""


@contextmanager
def watching(trainer: L.Trainer) -> Iterator[None]:
    """Watch the processes that Lightning starts on this machine, while the block runs.

    The first process ends the others and itself when one of them has died; the others end when the first one is gone.
    Processes that something else started, such as torchrun or Slurm, are in its care.

    Raises:
        LostProcessError: If the block fails because a process died.
    """
    launcher = trainer.strategy.launcher
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if launcher is None or environment is None or environment.creates_processes_externally:
        yield
        return
    ended = threading.Event()
    watch = _watch_children if trainer.local_rank == 0 else _watch_parent
    threading.Thread(target=watch, args=(trainer, ended), daemon=True, name="process-watch").start()
    try:
        yield
    except Exception as error:
        ended.set()
        lost = _wait_for_dead(trainer) if trainer.local_rank == 0 else None
        if lost is None:
            raise
        _kill(trainer)
        raise lost from error
    finally:
        ended.set()


def _watch_children(trainer: L.Trainer, ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        _take_over(trainer)
        lost = _dead(trainer)
        if lost is None:
            continue
        _kill(trainer)
        print(f"\nerror: {lost}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(lost.exit_code)  # the main thread may be waiting in a collective, which nothing else ends


def _watch_parent(trainer: L.Trainer, ended: threading.Event) -> None:
    del trainer
    parent = os.getppid()
    while not ended.wait(POLL_S):
        if os.getppid() != parent:
            os._exit(EXIT_DEFECT)


def _take_over(trainer: L.Trainer) -> None:
    """Empty the list of processes that Lightning's own watch looks at, and keep them in one of ours."""
    launcher: Any = trainer.strategy.launcher
    theirs = getattr(launcher, "procs", [])
    if theirs and not isinstance(theirs, _Ours):
        launcher.procs = _Ours(theirs)
        theirs.clear()


class _Ours(list[subprocess.Popen[bytes]]):
    """The processes of a launcher, once this module looks after them."""


def _children(trainer: L.Trainer) -> list[subprocess.Popen[bytes]]:
    return list(getattr(trainer.strategy.launcher, "procs", []))


def _dead(trainer: L.Trainer) -> LostProcessError | None:
    for rank, process in enumerate(_children(trainer), 1):
        code = process.poll()
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return LostProcessError(
                f"process {rank} of {trainer.world_size} {how}; there is no report. Its message, if it had one, is above. "
                "Go on with the same command, output_dir= the run's folder and resume=true",
                code,
            )
    return None


def _wait_for_dead(trainer: L.Trainer) -> LostProcessError | None:
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        lost = _dead(trainer)
        if lost is not None:
            return lost
        time.sleep(POLL_S / 10)
    return None


def _kill(trainer: L.Trainer) -> None:
    for process in _children(trainer):
        process.kill()
