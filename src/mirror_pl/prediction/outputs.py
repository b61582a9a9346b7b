"""Where predictions go: parts of a store beside the output, which outlive the process, and become the output at the end."""

from __future__ import annotations

import errno
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mirror_pl.changes import changes
from mirror_pl.detectors import Prediction
from mirror_pl.errors import ConfigError, OutputError
from mirror_pl.files import FolderLock, claim, read_json, write_text
from mirror_pl.prediction.formats import as_table, rows_of, writer_of
from mirror_pl.prediction.inputs import Entry, Item
from mirror_pl.prediction.recorder import Recorder
from mirror_pl.prediction.rows import COLUMNS, Row, Tally
from mirror_pl.prediction.units import Done, Numbered, Part, left, numbered, undone
from mirror_pl.store import SUFFIX, Store

_FACTS: Final = "_depends_on.json"
"""With an underscore, readers of a folder of Parquet files pass it over."""


class Output:
    """A file of predictions, or a folder of Parquet files, which is there when it is complete, and not before.

    Beside it, ``NAME.partial`` is the store of its parts until then, and ``NAME.run.json`` says afterwards what it was made
    with. One that was there already is never replaced.

    Args:
        path: A file, whose suffix says in what form it is, see `writer_of`; without a suffix, a folder of Parquet files.
        save_every_s: Seconds from one part to the next, at most.
        share: Which of how many shares of the units this process scores, beside others: ``(0, 3)`` is the first of three.

    Attributes:
        tally: What the rows come to: those of this process, and once it is complete all of them.
        resumed: How many rows were there before.
    """

    def __init__(self, path: Path, save_every_s: float = 10.0, share: tuple[int, int] = (0, 1)) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.record = path.with_name(f"{path.name}.run.json")
        self.resumed = 0
        self._write = writer_of(path) if path.suffix else None
        self._save_every_s = save_every_s
        self._share = share
        self._recorder: Recorder | None = None
        self._whole: Tally | None = None
        self._sizes = array("q")

    @property
    def tally(self) -> Tally:
        """What the rows come to."""
        return self._whole or (Tally() if self._recorder is None else self._recorder.tally)

    @property
    def store(self) -> Store:
        """Of the parts; from `begin` on."""
        assert self._recorder is not None
        return self._recorder.store

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from this output, or from this share of it, while the block runs.

        Raises:
            ConfigError: If another one is at it.
            OutputError: If its folder cannot be written to.
        """
        with self._as_output_error():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        number, of = self._share
        lock = self._lock("" if of == 1 else f".{number}-of-{of}")
        try:
            lock.take()
        except ConfigError as error:
            raise ConfigError(f"output: another process is writing {self.path}; wait for it, or give another one") from error
        try:
            yield
        finally:
            if self._recorder is not None and self.partial.exists():
                with suppress(OutputError):  # the disk may be the very reason
                    self._recorder.keep_whole_batches()
                if of == 1 and not self.store.names():  # it failed before the first picture: as if it had not been begun
                    shutil.rmtree(self.partial, ignore_errors=True)
            lock.release()

    def _lock(self, more: str = "") -> FolderLock:
        return FolderLock(self.path.with_name(f".{self.path.name}{more}.lock"))

    def check(self, *, resume: bool) -> None:
        """See that there is nothing that would be lost.

        Raises:
            ConfigError: If the output is there already, or what was stopped on the way to it, and `resume` was not asked.
        """
        resume = resume or self._share[1] > 1
        if self.path.exists() and not (resume and self._complete_record() is not None):
            raise ConfigError(f"output: {self.path} exists already; give another one, or move it away")
        if self.partial.exists() and not resume:
            raise ConfigError(
                f"output: a run on the way to {self.path} was stopped; go on with resume=true, or remove {self.partial}"
            )

    def finished(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the record of an output that is complete already; None where it is not.

        Raises:
            ConfigError: If it depends on other things than `facts`.
        """
        record = self._complete_record()
        if record is not None:
            self._check_unchanged(record["depends_on"], facts)
            shutil.rmtree(self.partial, ignore_errors=True)  # of a process that was killed in the moment before it did so
        return record

    def begin(
        self, facts: Mapping[str, Any], entries: Iterable[Entry], together: int, passed_over: Counter[str] | None = None
    ) -> Iterator[Item]:
        """Begin, or go on with what is there.

        Args:
            facts: What the predictions depend on, as plain values.
            entries: All that is to be scored.
            together: Items that are scored together, and so are begun with again where only a part of them was kept.
            passed_over: Counts the files in shards that were passed over, by suffix.

        Returns:
            The items that are left to this process. While they are taken, a `ConfigError` says that what is there are rows
            of other pictures.

        Raises:
            ConfigError: If what is there depends on other things.
            OutputError: If it cannot be read or written.
        """
        self.hold_to(facts, together)
        number, of = self._share
        done = self.done()
        self.resumed = done.rows
        return left(
            numbered(entries),
            done,
            mine=lambda unit: unit % of == number,
            on_empty=self._recorder.add_empty if self._recorder else None,
            sizes=self._sizes,
            passed_over=passed_over,
        )

    def undone(
        self, facts: Mapping[str, Any], entries: Iterable[Entry], together: int
    ) -> Iterator[tuple[int, list[Numbered]]]:
        """Begin, or go on with what is there, where others score: as `begin`, but yield whole units, and list no shard."""
        self.hold_to(facts, together)
        done = self.done()
        self.resumed = done.rows
        return undone(numbered(entries), done, self._sizes)

    def hold_to(self, facts: Mapping[str, Any], together: int) -> None:
        """Record what the predictions depend on; where that was done, hold it against what was recorded.

        Raises:
            ConfigError: If what is there depends on other things, or is none of ours.
            OutputError: If it cannot be written.
        """
        path = self.partial / _FACTS
        with self._as_output_error():
            if self.partial.exists() and not self.partial.is_dir():
                raise ConfigError(f"resume: {self.partial} is not what a stopped run leaves; move it away")
            self.partial.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                claim(path, json.dumps(facts, indent=2) + "\n")
        try:
            before = dict(read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"resume: {path} is damaged ({error}); move {self.partial} away, and begin anew") from error
        self._check_unchanged(before, facts)
        key = sha256(json.dumps(before, sort_keys=True).encode()).digest()
        self._recorder = Recorder(Store(self.partial, key), together, self._save_every_s)

    def scratch(self, name: str) -> Path:
        """Return a file of this share's own in the store, which no reader takes for a part, and which goes with it."""
        return self.partial / f"_{name}.{self._share[0]}-of-{self._share[1]}"

    def add(self, item: Item, prediction: Prediction) -> None:
        """Take the prediction of the next item of those that `begin` returned.

        Raises:
            OutputError: If a part cannot be written. What was written before is kept.
        """
        assert self._recorder is not None
        self._recorder.add(item, prediction)

    def done(self) -> Done:
        """Return which rows are there, from all processes."""
        return Done(self.store.names())

    def left_over(self) -> int:
        """Return how many units are not complete, once all items were taken."""
        done = self.done()
        return sum(not done.is_done(unit, size) for unit, size in enumerate(self._sizes))

    def complete(self, record: Mapping[str, Any]) -> bool:
        """Make the output from the parts, and remove them; the record is written before the output is there.

        Args:
            record: What it was made with; what the rows come to is added.

        Returns:
            Whether it is complete; if not, other shares have work left, and the last of them makes the output.

        Raises:
            OutputError: If it cannot be written, or is there meanwhile. The parts are kept.
            DataError: If a part is damaged.
        """
        assert self._recorder is not None
        self._recorder.flush()
        if self._share[1] > 1:
            if self._complete_record() is not None:
                return True
            lock = self._lock()
            try:
                lock.take()
            except ConfigError:  # another share is at it
                return False
            try:
                return self._complete_record() is not None or self._make(record)
            finally:
                lock.release()
        return self._make(record)

    def _make(self, record: Mapping[str, Any]) -> bool:
        done = self.done()
        if not all(done.is_done(unit, size) for unit, size in enumerate(self._sizes)):
            return False
        chains = [done.chain(unit) for unit in range(len(self._sizes))]
        found = {part.name: self.store.schema(part.name).names for chain in chains for part, _ in chain}
        columns = tuple(dict.fromkeys((*COLUMNS, *(name for names in found.values() for name in names))))
        self._whole = tally = Tally()
        rows = _counted((row for chain in chains for row in self._rows(chain, columns)), tally)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with self._as_output_error():
                if self._write is None:
                    self._trim(chains, found, columns, tally)
                    made = self.partial
                else:
                    self._write(temporary, rows, columns)
                    with temporary.open("rb+") as file:
                        os.fsync(file.fileno())
                    made = temporary
                if self.path.exists():  # it was not when this run began
                    raise FileExistsError(errno.EEXIST, "it was written meanwhile, by another process")
                pictures = {"total": tally.total, "scored": tally.scored, "by_status": dict(tally.statuses)}
                facts = {**record, "pictures": pictures, "bytes": _size(made)}
                write_text(self.record, json.dumps(facts, indent=2, allow_nan=False) + "\n")
                made.rename(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)
        return True

    def _rows(self, chain: list[tuple[Part, int]], columns: tuple[str, ...]) -> Iterator[Row]:
        for part, first in chain:
            table = self.store.read(part.name)
            if len(table) != part.end - part.first or not set(COLUMNS) <= set(table.column_names):
                raise self.store.damaged(part.name, f"expected {part.end - part.first} rows, got {len(table)}")
            yield from rows_of(table.slice(first - part.first), columns)

    def _trim(
        self,
        chains: list[list[tuple[Part, int]]],
        found: Mapping[str, Sequence[str]],
        columns: tuple[str, ...],
        tally: Tally,
    ) -> None:
        """Make the parts themselves the output: each row once, with the same columns; `found` are those they have."""
        kept: set[str] = set()
        for chain in chains:
            for part, first in chain:
                rows = list(_counted(self._rows([(part, first)], columns), tally))
                name = part._replace(first=first).name
                if first > part.first or tuple(found[part.name]) != columns:
                    self.store.add(name, as_table(rows, columns))
                kept.add(name)
        for name in set(self.store.names()) - kept:
            (self.partial / f"{name}{SUFFIX}").unlink()
        for scratch in self.partial.glob("_*"):
            if scratch.name != _FACTS:
                shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()

    def _complete_record(self) -> dict[str, Any] | None:
        """Return the record of the output, if both are there and belong together."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            record: dict[str, Any] = read_json(self.record)
            if record["bytes"] == _size(self.path):
                return record
        return None

    def _check_unchanged(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = changes(before, now)
        if changed:
            raise ConfigError(
                f"resume: what {self.path} depends on has changed since it was begun: {changed}. Put it back, or give "
                "another output"
            )

    @contextmanager
    def _as_output_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"output: {self.path} cannot be written: {error.strerror or error}; what was scored until now is kept: make "
                "room, then go on with resume=true"
            ) from error


def _counted(rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
    for row in rows:
        tally.add(row)
        yield row


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob(f"*{SUFFIX}"))
    return path.stat().st_size
