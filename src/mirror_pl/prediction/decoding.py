"""Pictures are decoded in processes of their own, which a picture may hang or crash: it costs itself a score, and no more.

A loader of torch's, and a pool of the standard library's, ends with one of its processes, and gives up no file. Pebble 5.2
goes on, and gives up, but it blames pictures for a suspended run, names none where the system ends a process between two,
and brought three quarters of the images a second (docs/performance.md).
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from mirror_pl.errors import LostProcessError
from mirror_pl.images import PreparedPicture
from mirror_pl.prediction.inputs import Item
from mirror_pl.stopping import in_worker
from mirror_pl.texts import printable

Prepared: TypeAlias = tuple[Item, PreparedPicture]

_START_S: Final = 120.0
"""By then a process has started, on any machine."""
_LOOK_S: Final = 0.5
"""A process is waited for in looks of this length, at most: that a run was suspended, with Ctrl-Z say, costs it but one."""


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
        ahead: Pictures that may be on their way, or wait to be taken, at a time; one a process there are in any case.
        start: How a process is started, as multiprocessing names it. None forks on Linux: a copy of this process starts in
            milliseconds, and needs no script that can be run twice. Inside a process whose other threads fork is not safe
            with, such as a Ray actor, give ``forkserver`` or ``spawn``.

    Raises:
        LostProcessError: While iterating, if the system ends a process, as it does when memory runs out.
    """
    if num_workers == 0:
        yield ((item, prepare(item)) for item in items)
        return
    if start == "forkserver":  # which is begun once, and copied for each process
        multiprocessing.set_forkserver_preload(["mirror_pl.prediction.pictures"])
    context = multiprocessing.get_context(start or ("fork" if sys.platform == "linux" else None))
    closing = threading.Event()
    workers = [_Worker(prepare, timeout_s, context, closing) for _ in range(num_workers)]
    threads = ThreadPoolExecutor(num_workers, "decoding")
    try:
        yield _in_order(items, workers, threads, max(ahead, num_workers))
    finally:
        closing.set()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.end()


def _in_order(items: Iterable[Item], workers: list[_Worker], threads: ThreadPoolExecutor, ahead: int) -> Iterator[Prepared]:
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def decode(item: Item) -> PreparedPicture:
        worker = idle.get()
        try:
            return worker.decode(item)
        finally:
            idle.put(worker)

    items = iter(items)
    given: deque[tuple[Item, Future[PreparedPicture]]] = deque()
    while True:
        given.extend((item, threads.submit(decode, item)) for item in islice(items, ahead - len(given)))
        if not given:
            return
        item, future = given.popleft()
        yield item, future.result()


class _Worker:
    """A process that decodes one item at a time, and another one in its place where it hangs or crashes."""

    def __init__(
        self, prepare: Callable[[Item], PreparedPicture], timeout_s: float, context: Any, closing: threading.Event
    ) -> None:
        self._prepare = prepare
        self._timeout_s = timeout_s
        self._context = context
        self._closing = closing
        self._start()

    def _start(self) -> None:
        with _CHILDREN, warnings.catch_warnings():
            # The copy decodes only: it touches no thread, and no lock, of this process.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_decode, args=(theirs, self._prepare), daemon=True)
            self._process.start()
            theirs.close()
        self._ready = False

    def decode(self, item: Item) -> PreparedPicture:
        """Have an item decoded.

        Raises:
            LostProcessError: If it was the system that ended the process, or it did not start.
        """
        try:
            if not self._ready:
                if not self._answers(_START_S):
                    raise EOFError
                self._pipe.recv()
                self._ready = True
            self._pipe.send(item)
            if self._answers(self._timeout_s):
                picture: PreparedPicture = self._pipe.recv()
                return picture
            self.end()
            reason = f"given up after timeout_s={self._timeout_s:g} of decoding"
        except (EOFError, OSError):
            code = self.end(grace_s=1) or 0  # its end of the pipe is closed a moment before it has ended
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            if code == -signal.SIGKILL or not self._ready:
                raise LostProcessError(
                    f"a decoding process {how} at {printable(item.path)}; systems do so when memory runs out: use fewer "
                    "num_workers, or a smaller max_megapixels",
                    code,
                ) from None
            reason = f"the process that decoded it {how}"
        if not self._closing.is_set():
            self._start()
        return PreparedPicture(None, status="undecodable", reason=reason)

    def _answers(self, timeout_s: float) -> bool:
        looks = 1 + math.ceil(timeout_s / _LOOK_S)
        return any(self._pipe.poll(timeout_s / looks) for _ in range(looks) if not self._closing.is_set())

    def end(self, grace_s: float = 0) -> int | None:
        """End the process, and return what it ended with; None where the system does not let go of it."""
        with _CHILDREN:
            self._process.join(grace_s)
            self._process.kill()
            self._process.join(1)
            self._pipe.close()
            return self._process.exitcode


_CHILDREN: Final = threading.Lock()
"""One thread at a time starts and ends processes: a copy must have no end of another one's pipe that its process writes to,
and who asks first what a process ended with is the only one to be told."""


def _decode(pipe: Connection, prepare: Callable[[Item], PreparedPicture]) -> None:
    """Answer each item with its picture, until nobody asks any more. Runs in a process of its own."""
    in_worker(0)
    with open(os.devnull, "wb") as nowhere:  # libtiff prints what is wrong with a file, which is in its row
        os.dup2(nowhere.fileno(), 2)
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.send(prepare(pipe.recv()))
