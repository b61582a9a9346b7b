"""How far a prediction has come: a bar on a terminal, and in a log a plain line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mirror_pl.reports import print_plain


class Progress:
    """Shows progress while its block runs.

    Args:
        console: Where.
        done: Pictures that were done before.
        count: Returns how many there are in all, or None where that is not known; it may take long, and is asked in a thread
            of its own, once the first picture is done: no process is started after that which could inherit its state.
        every_s: Seconds between two lines, where there is no terminal.
    """

    def __init__(self, console: Console, done: int, count: Callable[[], int | None], every_s: float = 30.0) -> None:
        self._console = console
        self._before = self._done = done
        self._count = count
        self._every_s = every_s
        self._total: int | None = None
        self._counting = False
        self._started = self._last = time.monotonic()
        self._bar = Bar(
            TextColumn("pictures"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("", total=None, completed=done, speed="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count a picture."""
        self._done += 1
        if not self._counting:
            self._counting = True
            threading.Thread(target=self._find_total, name="counting", daemon=True).start()
        now = time.monotonic()
        if now - self._last < (0.2 if self._console.is_terminal else self._every_s):
            return
        self._last = now
        speed = (self._done - self._before) / (now - self._started)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._done, total=self._total, speed=f"{speed:.1f}/s")
        else:
            print_plain(self._line(speed), self._console)

    def _line(self, speed: float) -> str:
        if self._total is None:
            return f"{self._done:,} pictures, {speed:.1f} a second"
        left = timedelta(seconds=round(max(0, self._total - self._done) / speed))
        return f"{self._done:,}/{self._total:,} pictures, {speed:.1f} a second, {left} left"

    def _find_total(self) -> None:
        with suppress(OSError):  # a folder that goes away meanwhile: then there is no time left to show
            self._total = self._count()
