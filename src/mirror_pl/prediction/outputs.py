"""Where predictions go: a journal beside the output, which outlives the process, and which becomes the output at the end.

The journal is a file of lines of JSON: the first says what the predictions depend on, each other one is a row. A row is
written as soon as it is there, so that it outlives the process, and synchronised with the disk now and then, so that it
outlives the machine. What is cut short at the end is passed over.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, Final

from mirror_pl.errors import ConfigError, OutputError
from mirror_pl.files import FolderLock, read_json, write_text
from mirror_pl.prediction.formats import as_line, writer_of
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.rows import Row, Tally
from mirror_pl.texts import storable

KIND: Final = "mirror_pl predictions 1"
_HEAD: Final = f'{{"kind": "{KIND}", '.encode()
"""How a journal begins."""


class OutputFile:
    """A file of predictions, which is there when it is complete, and not before; never one that was there already.

    Beside it, ``NAME.partial`` is the journal until then, and ``NAME.run.json`` says afterwards what it was made with.

    Args:
        path: The file; its suffix says in what form it is, see `writer_of`.
        save_every_s: Seconds between two times that rows are synchronised with the disk.

    Attributes:
        tally: What the rows come to that it has so far.
        resumed: How many of them an earlier try has written.
    """

    def __init__(self, path: Path, save_every_s: float = 10.0) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.record = path.with_name(f"{path.name}.run.json")
        self.tally = Tally()
        self.resumed = 0
        self._write = writer_of(path)
        self._save_every_s = save_every_s
        self._journal: FileIO | None = None
        self._saved = 0.0

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from writing it, while the block runs.

        Raises:
            ConfigError: If another one does.
            OutputError: If its folder cannot be written to.
        """
        with self._as_output_error():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.take()
        except ConfigError as error:
            raise ConfigError(f"output: another process is writing {self.path}; wait for it, or give another one") from error
        try:
            yield
        finally:
            if self._journal is not None:
                self._journal.close()
                if not self.tally.total:  # it failed before the first picture: as if it had never been begun
                    self.abandon()
            lock.release()

    def check(self, *, resume: bool) -> None:
        """See that there is nothing that would be lost.

        Raises:
            ConfigError: If the output is there already, or what was stopped on the way to it, and `resume` was not asked.
        """
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
            self.partial.unlink(missing_ok=True)  # of a process that was killed in the moment before it did so
        return record

    def begin(self, facts: Mapping[str, Any], items: Iterator[Item], together: int) -> Iterator[Item]:
        """Begin the journal, or go on with the one that is there.

        Args:
            facts: What the predictions depend on, as plain values.
            items: All that is to be scored.
            together: Items that are scored together, and so are begun with again where only a part of them was kept.

        Returns:
            The items that are left.

        Raises:
            ConfigError: If the journal depends on other things, or the items are no longer those it has rows of.
            OutputError: If it cannot be read or written.
        """
        with self._as_output_error():
            head = self._read_head()
            if head is None:
                self._journal = FileIO(self.partial, "w")
                self._append(as_line({"kind": KIND, "depends_on": facts}))
                return items
            self._check_unchanged(head["depends_on"], facts)
            kept, place, left = self._pass_over(items, together)
            self._journal = FileIO(self.partial, "r+")
            self._journal.truncate(place)
            self._journal.seek(place)
        self.resumed = kept
        return left

    def add(self, row: Row) -> None:
        """Write a row.

        Raises:
            OutputError: If it cannot be written. What was written before is kept.
        """
        with self._as_output_error():
            self._append(as_line(row))
        self.tally.add(row)

    def abandon(self) -> None:
        """Remove the journal, which is of no use any more."""
        if self._journal is not None:
            self._journal.close()
        with suppress(OSError):
            self.partial.unlink()

    def complete(self, record: Mapping[str, Any]) -> None:
        """Make the output from the journal, and remove that; the record is written before the output is there.

        Raises:
            OutputError: If it cannot be written, or is there meanwhile. The journal is kept.
        """
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with self._as_output_error():
                self._write(temporary, (row for row, _ in self._rows()), self.tally.columns)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                if self.path.exists():  # it was not when this run began
                    raise FileExistsError(errno.EEXIST, "it was written meanwhile, by another process")
                size = temporary.stat().st_size
                write_text(self.record, json.dumps({**record, "bytes": size}, indent=2, allow_nan=False) + "\n")
                temporary.rename(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self.abandon()

    def _append(self, content: bytes) -> None:
        assert self._journal is not None
        rest = memoryview(content)
        while rest:  # a disk that fills up takes a part first, and says why at the next try
            rest = rest[self._journal.write(rest) :]
        if time.monotonic() - self._saved >= self._save_every_s:
            os.fsync(self._journal.fileno())
            self._saved = time.monotonic()

    def _read_head(self) -> dict[str, Any] | None:
        """Return the first line of the journal; None where there is none, or its process was stopped before it wrote it.

        Raises:
            ConfigError: If the file is something else.
        """
        if not self.partial.exists():
            return None
        with self.partial.open("rb") as file:
            line = file.readline()
        if not line.strip(b"\0") or line == _HEAD[: len(line)] or (line.startswith(_HEAD) and not line.endswith(b"\n")):
            return None
        head = _parsed(line)
        if head is None or head.get("kind") != KIND:
            raise ConfigError(f"resume: {self.partial} is not what a stopped run leaves; move it away")
        return head

    def _rows(self) -> Iterator[tuple[Row, int]]:
        """Yield the journal's whole rows, each with where it ends."""
        with self.partial.open("rb") as file:
            place = len(file.readline())
            for line in file:
                row = _parsed(line)
                if row is None:
                    return
                place += len(line)
                yield row, place

    def _pass_over(self, items: Iterator[Item], together: int) -> tuple[int, int, Iterator[Item]]:
        """Go through rows and items side by side.

        Returns:
            How many rows are kept, where the last of them ends, and the items that are left.
        """
        with self.partial.open("rb") as file:
            place = len(file.readline())
        kept = 0
        group: list[Row] = []
        seen: list[Item] = []
        for row, end in self._rows():
            item = next(items, None)
            found = "nothing" if item is None else storable(item.path)
            if item is None or found != row["image_path"]:
                raise ConfigError(
                    f"resume: row {kept + len(group) + 1} on the way to {self.path} is of {row['image_path']}, where the "
                    f"input has {found} now; put it back, or remove {self.partial} to begin anew"
                )
            group.append(row)
            seen.append(item)
            if len(group) == together:
                for one in group:
                    self.tally.add(one)
                kept, place, group, seen = kept + together, end, [], []
        return kept, place, chain(seen, items)

    def _complete_record(self) -> dict[str, Any] | None:
        """Return the record of the output, if both are there and belong together."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            record: dict[str, Any] = read_json(self.record)
            if record["bytes"] == self.path.stat().st_size:
                return record
        return None

    def _check_unchanged(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        one, two = _flat(before), _flat(json.loads(json.dumps(now)))
        changed = [key for key in {**one, **two} if one.get(key) != two.get(key)]
        if changed:
            which = "; ".join(f"{key}: {one.get(key)} then, {two.get(key)} now" for key in changed)
            raise ConfigError(
                f"resume: what {self.path} depends on has changed since it was begun: {which}. Put it back, or give another "
                "output"
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


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, dict) else None
        found.update({name: value} if inner is None else {f"{name}.{key}": each for key, each in inner.items()})
    return found


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line's content; None where it is cut short or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
