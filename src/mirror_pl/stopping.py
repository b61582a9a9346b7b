"""Signals that ask a command to stop: it keeps what it has, ends its processes, and says with which command it goes on.

Of the standard library alone, so that a command has it before its imports begin.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
"""Ctrl-C, what ends a process politely, a terminal that goes away, and Slurm's warning; Windows has the first two."""
GRACE_S: Final = 3.0
"""Seconds in which a command that stops may write what it has; then its process ends, whatever it waits for."""
LOOK_S: Final = 0.3
"""Seconds between two looks at another process."""

STARTED_BY_US: Final = "MIRROR_PL_RANK"
"""Variable in the environment of a command that another one has started as one of its processes."""

_owner = 0
_asked: signal.Signals | None = None
_at_a_step = False
_command: list[str] = []
_to_go_on: list[str] | None = None


class Stopped(BaseException):
    """A signal asked the command to stop. No `Exception`: nothing that goes on past errors goes on past this one."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, by the shells' convention."""
        return 128 + self.number


def raise_if_stopped(error: BaseException) -> None:
    """Raise the `Stopped` that an error was made of, by a library that makes its own of whatever comes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Stopped):
            raise seen
        seen = seen.__cause__ or seen.__context__


@contextmanager
def stopped_by_signals(command: str, *, quietly: bool = False) -> Iterator[None]:
    """While the block runs, have the signals of `SIGNALS` raise `Stopped` in the main thread; a second one ends the process.

    Args:
        command: Name of the command, for the line that says how to go on.
        quietly: Print none: another process does.
    """
    global _owner, _asked, _command, _said, _to_go_on
    _owner, _asked, _said, _to_go_on = os.getpid(), None, quietly, None
    _command = ["python", "-m", f"mirror_pl.{command}", *sys.argv[1:]]
    before = {number: signal.getsignal(number) for number in SIGNALS}
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    former = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True, name="stop-watch").start()
    hook = sys.unraisablehook
    # Raised where Python drops exceptions, such as after a fork, it is not lost: `_watch` ends the process.
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is Stopped else hook(dropped)
    take_signals()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        _owner = 0
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former)
        writing.close()


def _watch(reading: socket.socket) -> None:
    """End the process where the main thread does not come to: inside a library that waits, it hears of no signal."""
    heard: list[int] = []
    until = float("inf")
    while time.monotonic() < until and len(heard) < 2:
        if select.select([reading], [], [], LOOK_S)[0]:
            written = reading.recv(8)
            if not written:  # the block is over
                reading.close()
                return
            heard += [number for number in written if number in SIGNALS]
        if heard and (_at_a_step or until == float("inf")):
            until = time.monotonic() + GRACE_S
    _end(signal.Signals(heard[0]))


def go_on_with(*settings: str) -> None:
    """Say which settings, as ``key=value``, the command goes on with if it is stopped from now on.

    The first word counts: the parts of a command say what they would go on with alone.
    """
    global _to_go_on
    _to_go_on = list(settings) if _to_go_on is None else _to_go_on


def how_to_go_on() -> str | None:
    """Return the whole command that goes on; None where there is nothing to go on with yet."""
    if _to_go_on is None:
        return None
    keys = {setting.partition("=")[0] for setting in _to_go_on}
    kept = [argument for argument in _command if argument.partition("=")[0] not in keys]
    return shlex.join([*kept, *_to_go_on])


def note_signals(step_by_step: bool) -> None:
    """Only note signals from now on, or no longer: who works in steps asks `asked_to_stop` after each, and calls `stop`.

    In a process that is no command's, do nothing.
    """
    global _at_a_step
    _at_a_step = step_by_step
    take_signals()


def take_signals() -> None:
    """Take the signals of a command back from a library that has taken them."""
    if os.getpid() == _owner and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _on_signal)


def asked_to_stop() -> signal.Signals | None:
    """Return the signal that was noted, if there was one."""
    return _asked


def stop(number: int) -> None:
    """Stop now, as by a signal of this number.

    Raises:
        Stopped: Always.
    """
    global _at_a_step
    _at_a_step = False
    raise Stopped(signal.Signals(number))


def say_stopped(stopped: Stopped) -> int:
    """Print the one line on standard error, and return the exit code."""
    line = how_to_go_on()
    _print(f"stopped by {stopped.number.name}" + (f"; go on with: {line}" if line else ""))
    return stopped.exit_code


def end_with_parent() -> None:
    """Have this process, a command of its own, end when the one that started it is gone, however that ended."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)

    _end_after(wait)


def in_worker(number: int) -> None:
    """Begin a process of multiprocessing: signals are the matter of the one that started it, and it ends with that."""
    del number
    for signal_number in SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_after(parent.join)


def _end_after(wait: Callable[[], object]) -> None:
    def end() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=end, daemon=True, name="end-with-parent").start()


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    del frame
    if os.getpid() != _owner:  # a process forked from that of the command, which ends it
        return
    if _asked is None:
        _asked = signal.Signals(number)
        if not _at_a_step:
            stop(number)


def _end(number: signal.Signals) -> None:
    say_stopped(Stopped(number))
    os._exit(128 + number)


_said = False


def _print(line: str) -> None:
    global _said
    if not _said:  # once, whoever comes first
        _said = True
        sys.stdout.flush()
        print(f"\n{line}", file=sys.stderr, flush=True)  # noqa: T201
