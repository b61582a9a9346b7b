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
        done: Steps that were done before: pictures, or units of work where others score them.
        count: Returns how many steps there are in all, or None where that is not known; it may take long, and is asked in a
            thread of its own, once the first step is done: no process is started after that which could inherit its state.
        steps: What is counted.
        everywhere: Returns how many steps are done by all processes together, where there are others; it is asked every
            few seconds at most.
        every_s: Seconds between two lines, where there is no terminal.
    """

    def __init__(
        self,
        console: Console,
        done: int,
        count: Callable[[], int | None],
        steps: str = "pictures",
        everywhere: Callable[[], int] | None = None,
        every_s: float = 30.0,
    ) -> None:
        self._console = console
        self._before = self._done = done
        self._pictures = 0
        self._count = count
        self._steps = steps
        self._everywhere = everywhere
        self._every_s = min(every_s, (5.0 if everywhere else 0.2) if console.is_terminal else every_s)
        self._total: int | None = None
        self._counting = False
        self._started = self._last = time.monotonic()
        self._bar = Bar(
            TextColumn(steps),
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

    def advance(self, pictures: int = 1) -> None:
        """Count a step.

        Args:
            pictures: In it.
        """
        self._done += 1
        self._pictures += pictures
        if not self._counting:
            self._counting = True
            threading.Thread(target=self._find_total, name="counting", daemon=True).start()
        now = time.monotonic()
        if now - self._last < self._every_s:
            return
        self._last = now
        done = self._done if self._everywhere is None else self._everywhere()
        pictures = self._pictures if self._everywhere is None else done - self._before
        speed = pictures / (now - self._started)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=self._total, speed=f"{speed:.1f}/s")
        else:
            print_plain(self._line(done, speed, now - self._started), self._console)

    def _line(self, done: int, speed: float, seconds: float) -> str:
        pictures = "" if self._steps == "pictures" else f"{self._pictures:,} pictures, "
        if self._total is None:
            return f"{done:,} {self._steps}, {pictures}{speed:.1f} a second"
        left = seconds * max(0, self._total - done) / max(1, done - self._before)
        return (
            f"{done:,}/{self._total:,} {self._steps}, {pictures}{speed:.1f} a second, {timedelta(seconds=round(left))} left"
        )

    def _find_total(self) -> None:
        with suppress(OSError):  # a folder that goes away meanwhile: then there is no time left to show
            self._total = self._count()
