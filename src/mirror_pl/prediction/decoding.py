"""Pictures are decoded in processes of their own, which a picture may hang or crash: it costs itself a score, and no more.

A loader of torch's does not do that: when one of its processes ends, so does the loader, and no file is ever given up.
Pebble's pool (5.2.3) was measured beside this one, with two processes: 171 against 174 images/s on JPEGs of 0.2 megapixels,
555 against 946 on tiny ones. It gives pictures up by the clock, also where all was suspended meanwhile; and it waits three
seconds for each process that hangs and ignores SIGTERM, as these must.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Final, TypeAlias

from mirror_pl.errors import LostProcessError
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.prediction.inputs import Item
from mirror_pl.stopping import in_worker
from mirror_pl.texts import printable

Prepared: TypeAlias = tuple[Item, PreparedPicture]

_AT_ONCE: Final = 2
"""Items that a process has at a time, so that it need not wait for the next one."""
_START_S: Final = 120.0
"""By then a process has started, on any machine."""
_LOOK_S: Final = 0.5
_STOPPED_S: Final = 2.0
"""A wait of `_LOOK_S` that took longer than this was suspended on the way."""
_FORKS: Final = sys.platform == "linux"


@contextmanager
def prepared(
    items: Iterable[Item],
    prepare: Callable[[Item], PreparedPicture],
    timeout_s: float,
    num_workers: int,
    ahead: int,
    start: str | None = None,
) -> Iterator[Iterator[Prepared]]:
    """Decode items in other processes, ahead of who takes them; give an iterator of them, in their order.

    Args:
        items: Taken lazily.
        prepare: Decodes an item; never raises.
        timeout_s: An item that takes longer is given up.
        num_workers: Processes; with 0, pictures are decoded by who takes them, and no time limit holds.
        ahead: Pictures that may be on their way, or wait to be taken, at a time; two a process there are in any case.
        start: How processes are started, by multiprocessing's names. None forks on Linux, which is safe but where threads
            hold locks, as in an actor of Ray: there ``forkserver`` is, and as fast from the second process on.

    Raises:
        LostProcessError: While iterating, if the system ends a process, as it does when memory runs out.
    """
    if num_workers == 0:
        yield ((item, prepare(item)) for item in items)
        return
    if start == "forkserver":  # which is begun once, and copied for each process
        multiprocessing.set_forkserver_preload(["mirror_pl.prediction.pictures"])
    pool = _Pool(items, prepare, timeout_s, num_workers, ahead, start or ("fork" if _FORKS else "spawn"))
    try:
        yield iter(pool)
    finally:
        pool.close()


class _Process:
    """A process that decodes what it is given, one item after the other."""

    def __init__(self, prepare: Callable[[Item], PreparedPicture], start: str, others: Iterable[_Process] = ()) -> None:
        # A copy of this process, where that is safe, starts in milliseconds, and needs no script that can be run twice.
        context: Any = multiprocessing.get_context(start)
        self.pipe, theirs = context.Pipe()
        # A copy has these ends too; did it keep them open, it would wait for ever for a reader that was killed.
        ours = [self.pipe, *(other.pipe for other in others)] if start == "fork" else []
        self.process = context.Process(target=_decode, args=(theirs, ours, prepare), daemon=True)
        with warnings.catch_warnings():  # the copy decodes only: it touches no thread, and no lock, of this process
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()
        self.given: deque[tuple[int, Item]] = deque()
        self.ready = False
        self.since = time.monotonic()
        """When it was started, or began with the first of `given`."""

    def give(self, number: int, item: Item) -> None:
        if not self.given:
            self.since = time.monotonic()
        self.given.append((number, item))
        with suppress(OSError):  # that it has ended is noticed when its answer is read
            self.pipe.send(item)

    def answer(self) -> tuple[int, Item, PreparedPicture] | None:
        """Read what it has sent; None where that says only that it is ready.

        Raises:
            EOFError: If it has ended.
        """
        try:
            picture = self.pipe.recv()
        except OSError as error:
            raise EOFError from error
        self.since = time.monotonic()
        if picture is None:
            self.ready = True
            return None
        return (*self.given.popleft(), picture)

    def is_late(self, timeout_s: float) -> bool:
        waits = bool(self.given) or not self.ready
        return waits and time.monotonic() - self.since > (timeout_s if self.ready else _START_S) and not self.pipe.poll()

    def end(self) -> int | None:
        """End it, and return what it ended with; None where the system does not let go of it."""
        self.process.kill()
        self.process.join(1)
        self.pipe.close()
        return self.process.exitcode


def _decode(pipe: Connection, ours: list[Connection], prepare: Callable[[Item], PreparedPicture]) -> None:
    """Answer each item with its picture, until nobody asks any more. Runs in a process of its own."""
    for end in ours:
        end.close()
    in_worker(0)
    with open(os.devnull, "wb") as nowhere:  # libtiff prints what is wrong with a file, which is in its row
        os.dup2(nowhere.fileno(), 2)
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.send(prepare(pipe.recv()))


class _Pool:
    """Several processes, and a thread that shares the items out among them and puts the answers in order."""

    def __init__(
        self,
        items: Iterable[Item],
        prepare: Callable[[Item], PreparedPicture],
        timeout_s: float,
        num_workers: int,
        ahead: int,
        start: str,
    ) -> None:
        self._items = enumerate(items)
        self._new = partial(_Process, prepare, start)
        self._timeout_s = timeout_s
        self._most_open = max(_AT_ONCE * num_workers, ahead // 2)
        self._answers: queue.Queue[Prepared | BaseException | None] = queue.Queue(max(1, ahead // 2))
        self._closing = threading.Event()
        self._again: deque[tuple[int, Item]] = deque()
        self._found: dict[int, Prepared] = {}
        self._taken = self._next = 0
        self._exhausted = False
        self._processes: list[_Process] = []
        for _ in range(num_workers):  # before there is a thread
            self._processes.append(self._new(self._processes))
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Prepared]:
        while (answer := self._answers.get()) is not None:
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def close(self) -> None:
        """End the processes."""
        self._closing.set()
        self._thread.join(2 * _LOOK_S)  # it may be waiting for a name on standard input
        for process in self._processes:
            process.end()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._share_out()
                if self._exhausted and self._next == self._taken:
                    break
                self._collect()
            self._put(None)
        except BaseException as error:  # it belongs to who takes the pictures
            self._put(error)

    def _share_out(self) -> None:
        while True:
            process = min(self._processes, key=lambda process: len(process.given))
            if len(process.given) >= _AT_ONCE:
                return
            if self._again:
                process.give(*self._again.popleft())
                continue
            if self._exhausted or self._taken - self._next >= self._most_open:
                return
            following = next(self._items, None)
            if following is None:
                self._exhausted = True
                return
            self._taken += 1
            process.give(*following)

    def _collect(self) -> None:
        """Wait until a process answers or is late, and hand on the pictures whose turn it is."""
        before = time.monotonic()
        answering = wait([process.pipe for process in self._processes], _LOOK_S)
        if time.monotonic() - before > _STOPPED_S:  # all of this was suspended, with Ctrl-Z say, and no picture is to blame
            for process in self._processes:
                process.since = time.monotonic()
        for pipe in answering:
            process = next(process for process in self._processes if process.pipe is pipe)
            try:
                answer = process.answer()
            except EOFError:
                self._replace(process, given_up=False)
                continue
            if answer is not None:
                number, item, picture = answer
                self._found[number] = (item, picture)
        for process in self._processes[:]:
            if process.is_late(self._timeout_s):
                self._replace(process, given_up=True)
        while self._next in self._found:
            self._put(self._found.pop(self._next))
            self._next += 1

    def _replace(self, process: _Process, *, given_up: bool) -> None:
        """Put a new process in the place of one that has ended, or hangs; the picture it was at has that as its reason.

        Raises:
            LostProcessError: If it was the system that ended it, or it was at none.
        """
        if not given_up:
            process.process.join(1)  # its end of the pipe is closed a moment before it has ended
        killed = not given_up and process.process.exitcode == -signal.SIGKILL
        code = process.end() or 0
        if killed or not process.given or not process.ready:
            at = f" at {printable(process.given[0][1].path)}" if process.given else ""
            raise LostProcessError(
                f"a decoding process {_how(code)}{at}; systems do so when memory runs out: use fewer num_workers, or a "
                "smaller max_megapixels",
                code,
            )
        number, item = process.given.popleft()
        if given_up:
            reason = f"given up after timeout_s={self._timeout_s:g} of decoding"
        else:
            reason = f"the process that decoded it {_how(code)}"
        self._found[number] = (item, PreparedPicture(None, status="undecodable", reason=reason))
        self._again.extendleft(reversed(process.given))
        self._processes.remove(process)
        self._processes.append(self._new(self._processes))

    def _put(self, answer: Prepared | BaseException | None) -> None:
        while not self._closing.is_set():
            with suppress(queue.Full):
                self._answers.put(answer, timeout=_LOOK_S)
                return


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
