"""Units of work: what one process scores, and which of it is done already, by the names of the parts that exist.

The entries of the inputs are numbered in their order: up to `UNIT` files that follow each other are a unit, and each shard
is one. A part of the store holds rows of one unit that follow each other; its name says which. So a run goes on from a list
of names, whoever wrote the parts, and a result takes each row once, even where two processes were at one unit.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from mirror_pl.errors import ConfigError
from mirror_pl.prediction.inputs import Entry, Item, Place, Shard
from mirror_pl.texts import printable

UNIT: Final = 512
"""Files of a unit, at most: two batches of a GPU."""
_IN_A_FOLDER: Final = 1000
Numbered: TypeAlias = tuple[int, Entry]


def numbered(entries: Iterable[Entry]) -> Iterator[Numbered]:
    """Give each entry the number of its unit, lazily; those of one number follow each other."""
    number, files = 0, 0
    for entry in entries:
        if isinstance(entry, Shard):
            number += files > 0
            yield number, entry
            number, files = number + 1, 0
            continue
        yield number, entry
        files += 1
        if files == UNIT:
            number, files = number + 1, 0


class Part(NamedTuple):
    """Rows of one unit that follow each other.

    Attributes:
        unit: Number of the unit.
        first: Its row that they begin with.
        end: Its row before which they end.
        digest: Tells them from rows of other inputs, see `digest_of`.
        is_last: Whether the unit is known to end with them.
    """

    unit: int
    first: int
    end: int
    digest: str
    is_last: bool = False

    @property
    def name(self) -> str:
        """Of the part in the store; names sort as the rows do."""
        last = "-last" if self.is_last else ""
        return f"{folder_of(self.unit)}/{self.unit:010d}.{self.first:010d}-{self.end:010d}{last}.{self.digest}"

    @classmethod
    def of(cls, name: str) -> Part | None:
        """Read a name; None where it is none."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        unit, first, end, last, digest = found.groups()
        return cls(int(unit), int(first), int(end), digest, last is not None)


_NAME: Final = re.compile(r"\d{7}/(\d{10})\.(\d{10})-(\d{10})(-last)?\.([0-9a-f]{16})")


def folder_of(unit: int) -> str:
    """Return the folder of the store that a unit's parts are in, with those of `_IN_A_FOLDER` units: soon listed."""
    return f"{unit // _IN_A_FOLDER:07d}"


def digest_of(items: Sequence[Item]) -> str:
    """Return what tells rows of a unit from those of other inputs: the names of files, or a shard's own name and size."""
    shard = items[0].place.shard if items else ""
    return _digest([shard] if shard else [item.path for item in items])


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Done:
    """Which rows are there, by the names of parts.

    Args:
        names: Of the parts; what is none is passed over.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._parts: dict[int, list[Part]] = defaultdict(list)
        for part in filter(None, map(Part.of, names)):
            self._parts[part.unit].append(part)

    def chain(self, unit: int) -> list[tuple[Part, int]]:
        """Return the parts that follow each other from a unit's first row on, each with the row that it is taken from.

        Where two processes were at one unit, parts may overlap: each row is taken once, from the part that leads furthest.
        """
        row, found = 0, list[tuple[Part, int]]()
        parts = self._parts.get(unit, [])
        while not (found and found[-1][0].is_last):
            fitting = [part for part in parts if part.first <= row and part.end + part.is_last > row]
            if not fitting:
                break
            best = max(fitting, key=lambda part: (part.end, part.is_last, part.name))
            found.append((best, row))
            row = best.end
        return found

    def reached(self, unit: int) -> tuple[int, bool]:
        """Return how many rows of a unit are there from its first on, and whether it is known that those are all."""
        chain = self.chain(unit)
        return (chain[-1][0].end, chain[-1][0].is_last) if chain else (0, False)

    def is_done(self, unit: int, size: int) -> bool:
        """Whether all rows of a unit are there; `size` is -1 where only its last part tells how many there are."""
        rows, is_last = self.reached(unit)
        return is_last if size < 0 else rows == size

    @property
    def rows(self) -> int:
        """How many rows are there."""
        return sum(self.reached(unit)[0] for unit in self._parts)

    @property
    def end(self) -> int:
        """The number after the last unit that has a part."""
        return max(self._parts, default=-1) + 1

    def check(self, unit: int, items: Sequence[Item], *, whole: bool = False) -> None:
        """See that the parts of a unit are rows of what it holds now.

        Args:
            unit: Its number.
            items: Its first items, or for a shard any one of them.
            whole: Whether those are all.

        Raises:
            ConfigError: If they are rows of something else.
        """
        of_shard = bool(items) and bool(items[0].place.shard)
        for part in self._parts.get(unit, ()):
            here = items[:1] if of_shard else items[part.first : part.end]
            if (of_shard or part.end <= len(items) or whole) and part.digest != digest_of(here):
                now = f"{printable(here[0].path)} and what follows" if here else "nothing"
                raise ConfigError(
                    f"resume: rows {part.first + 1:,} to {part.end:,} of unit {unit} are of other pictures than the input "
                    f"has there now ({now}); put them back, or begin anew"
                )


def undone(entries: Iterable[Numbered], done: Done, sizes: array[int]) -> Iterator[tuple[int, list[Numbered]]]:
    """Yield the units that are not done, whole: each one's number and entries. Lists no shard.

    Args:
        entries: Of whole units.
        done: What is there.
        sizes: Gets the size of each unit as it is passed; -1 for a shard, whose last part tells.

    Raises:
        ConfigError: If what is there are rows of something else.
    """
    for unit, group in groupby(entries, key=itemgetter(0)):
        here = list(group)
        files = [entry for _, entry in here if isinstance(entry, Item)]
        shards = [Item.of_file(entry.path, Place(unit, 0, entry.key)) for _, entry in here if isinstance(entry, Shard)]
        done.check(unit, files or shards, whole=True)
        sizes.append(-1 if shards else len(files))
        if not done.is_done(unit, sizes[-1]):
            yield unit, here
    if done.end > len(sizes):
        done.check(done.end - 1, [], whole=True)


def left(
    entries: Iterable[Numbered],
    done: Done,
    *,
    mine: Callable[[int], bool] | None = None,
    on_empty: Callable[[Part], None] | None = None,
    sizes: array[int] | None = None,
    passed_over: Counter[str] | None = None,
) -> Iterator[Item]:
    """Yield the items that have no row yet, lazily, each with its place.

    Args:
        entries: Of whole units.
        done: What is there.
        mine: Which units are wanted, by their numbers; None wants all.
        on_empty: Called with the part of a shard that holds no picture, which no item stands for.
        sizes: Gets the size of each unit as it is passed; -1 for a shard, whose last part tells.
        passed_over: Counts the files in shards that were passed over, by suffix.

    Raises:
        ConfigError: If what is there are rows of something else.
    """
    for unit, group in groupby(entries, key=itemgetter(0)):
        if mine is not None and not mine(unit):
            size = sum(-1 if isinstance(entry, Shard) else 1 for _, entry in group)
        else:
            reached, _ = done.reached(unit)
            size, seen = 0, list[Item]()
            for _, entry in group:
                if isinstance(entry, Shard):
                    size = -1
                    yield from _in_shard(unit, entry, done, on_empty, Counter() if passed_over is None else passed_over)
                    continue
                seen.append(entry)
                size += 1
                if size == reached:
                    done.check(unit, seen)
                if size > reached:
                    yield replace(entry, place=Place(unit, size - 1))
            if seen:
                done.check(unit, seen, whole=True)
        if sizes is not None:
            sizes.append(size)
    if sizes is not None and done.end > len(sizes):
        done.check(done.end - 1, [], whole=True)


def _in_shard(
    unit: int, shard: Shard, done: Done, on_empty: Callable[[Part], None] | None, passed_over: Counter[str]
) -> Iterator[Item]:
    place = Place(unit, 0, shard.key)
    reached, is_done = done.reached(unit)
    done.check(unit, [Item.of_file(shard.path, place)])
    if is_done:
        return
    before: Item | None = None
    row = 0
    for row, item in enumerate(shard.items(passed_over), 1):
        if before is not None and row - 2 >= reached:
            yield before
        before = replace(item, place=place._replace(row=row - 1))
    if before is not None:
        yield replace(before, place=before.place._replace(is_last=True))
    elif on_empty is not None:
        on_empty(Part(unit, 0, 0, _digest([place.shard]), is_last=True))
