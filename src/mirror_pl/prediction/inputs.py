"""What to score: files, folders, globs, lists and shards become a stream of items, in a fixed order. Opens no image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

from mirror_pl.errors import ConfigError
from mirror_pl.images import IMAGE_SUFFIXES
from mirror_pl.sources.folder import suffix_of
from mirror_pl.sources.globs import has_magic, matches
from mirror_pl.sources.place import is_folder, is_remote, path_of, stat_of
from mirror_pl.sources.shards import SHARD_SUFFIXES, list_shard
from mirror_pl.sources.source import ImageSource
from mirror_pl.sources.tree import folders_below

# Names stay the text that they were given as, which pathlib would tidy, and pathlib is slow for a million files.
# ruff: noqa: PTH117, PTH118, PTH119

SUFFIXES: Final = IMAGE_SUFFIXES | {".avif", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".tif", ".tiff"}
"""What is taken for a picture in folders and shards. What Pillow cannot read of it has a row that says so."""
LIST_SUFFIXES: Final = frozenset({".txt", ".lst"})
STDIN: Final = "-"
_BLOCK: Final = 2**16


class Place(NamedTuple):
    """Where an item stands among the units of work, see `units`.

    Attributes:
        unit: Number of its unit.
        row: Its place in the unit.
        shard: For an item of a shard, the shard's `key`.
        is_last: Whether the unit is known to end with it.
    """

    unit: int = 0
    row: int = 0
    shard: str = ""
    is_last: bool = False


NO_PLACE: Final = Place()


@dataclass(frozen=True)
class Item:
    """One picture to score: a row of the output.

    Attributes:
        source: Where its bytes are, or they themselves.
        path: What it is called in the output: as it was named, or found below what was named. It may hold surrogates, where
            a name is not UTF-8; see `mirror_pl.files.storable`.
        suffix: That the recipe goes by, with the dot; None for the format that the bytes are in.
        problem: Why there is nothing to read, where that is known already; else empty.
        place: Among the units of work.
    """

    source: ImageSource | bytes
    path: str
    suffix: str | None
    problem: str = ""
    place: Place = NO_PLACE

    @classmethod
    def of_file(cls, path: str, place: Place = NO_PLACE) -> Item:
        """Return the item of a file, whether or not it is there."""
        return cls(ImageSource(path_of(path)), path, suffix_of(os.path.basename(path)), "", place)

    @classmethod
    def of_problem(cls, path: str, error: OSError) -> Item:
        """Return the item of what could not be looked into."""
        return cls(ImageSource(path_of(path)), path, "", f"{type(error).__name__}: {error.strerror or error}")


@dataclass(frozen=True)
class Shard:
    """A file that holds pictures, which are not listed yet.

    Attributes:
        path: As it was named.
    """

    path: str

    @property
    def key(self) -> str:
        """What tells it from others: its name, and how many bytes it has; -1 where that cannot be read."""
        try:
            size = stat_of(self.path).st_size
        except OSError:
            size = -1
        return f"{self.path}\0{size}"

    def items(self, passed_over: Counter[str] | None = None) -> Iterator[Item]:
        """Yield the pictures in it, by folder and name; where it cannot be listed, one item with the reason.

        Args:
            passed_over: Counts the other files in it, by suffix.
        """
        return _in_shard(self.path, Counter() if passed_over is None else passed_over)


Entry: TypeAlias = Item | Shard


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


def check_inputs(inputs: Sequence[str]) -> None:
    """See that everything named is there, without listing it.

    Raises:
        ConfigError: With the first that is not.
    """
    if list(inputs).count(STDIN) > 1:
        raise ConfigError("input: - is given twice, and standard input can be read only once")
    for name in inputs:
        if name == STDIN or _is_there(name):
            continue
        if not has_magic(name):
            where = "" if os.path.isabs(name) else f" in {Path.cwd()}"
            raise ConfigError(f"input: {name or 'an empty name'} does not exist{where}")
        if next(matches(name), None) is None:
            raise ConfigError(f"input: nothing matches {name}")


def expand(inputs: Iterable[str], *, stdin: _Bytes | None = None, passed_over: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the pictures that inputs stand for: those of `entries`, and in the place of each shard those in it."""
    for entry in entries(inputs, stdin=stdin, passed_over=passed_over):
        if isinstance(entry, Shard):
            yield from entry.items(passed_over)
        else:
            yield entry


def entries(
    inputs: Iterable[str], *, stdin: _Bytes | None = None, passed_over: Counter[str] | None = None
) -> Iterator[Entry]:
    """Yield the pictures and shards that inputs stand for, lazily, in this order: that of the inputs, and in each of them...

    ================ ====================================================================================================
    a file           itself, whatever its suffix
    a folder         the files with one of `SUFFIXES` in the order of their names, then its folders likewise; links are
                     followed, but not to a folder above; other files, shards included, are passed over
    ``*.txt, *.lst`` the files that it lists, one a line, relative to the current folder, each of them a picture
    ``-``            the same from standard input
    ``*.tar, *.zip`` the pictures in it, by folder and name; read in place
    ``*.parquet``    the pictures embedded in it, in the order of its rows; read in place
    a glob           what it matches, as if each were named: ``*``, ``?``, ``[...]`` and ``**``, see `globs.matches`
    ================ ====================================================================================================

    A name that exists is that file, whatever characters are in it. A list whose first block holds a NUL is separated by
    NULs, as ``find -print0`` writes it; then names may hold line breaks.

    At most one folder, or one shard, is in memory at a time. What is not there, or cannot be listed, is an item with the
    reason.

    Args:
        inputs: Names, or ``-``.
        stdin: To be read for ``-``; None is this process's standard input.
        passed_over: Counts the files that were passed over, by suffix.
    """
    passed_over = Counter() if passed_over is None else passed_over
    for name in inputs:
        if name == STDIN:
            yield from map(Item.of_file, _listed(stdin or FileIO(0, closefd=False)))
        elif has_magic(name) and not _is_there(name):
            for path in matches(name):
                yield from _expand(path, passed_over)
        else:
            yield from _expand(name, passed_over)


def count_items(inputs: Sequence[str]) -> int | None:
    """Return how many items `expand` yields, which lists everything once; None where standard input is among them."""
    return None if STDIN in inputs else sum(1 for _ in expand(inputs))


def _is_there(name: str) -> bool:
    return path_of(name).exists() if is_remote(name) else os.path.lexists(name)


def _expand(name: str, passed_over: Counter[str]) -> Iterator[Entry]:
    suffix = suffix_of(os.path.basename(name))
    if is_folder(name):
        yield from _in_folder(name, passed_over)
    elif suffix in LIST_SUFFIXES:
        try:
            opened = path_of(name).open("rb", 0) if is_remote(name) else FileIO(name)
        except OSError as error:
            yield Item.of_problem(name, error)
            return
        with opened:
            yield from map(Item.of_file, _listed(opened))
    elif suffix in SHARD_SUFFIXES:
        yield Shard(name)
    else:
        yield Item.of_file(name)


def _in_folder(name: str, passed_over: Counter[str]) -> Iterator[Item]:
    for folder in folders_below(name):
        if folder.error is not None:
            yield Item.of_problem(folder.path, folder.error)
            continue
        for file in folder.files:
            suffix = suffix_of(file)
            if suffix in SUFFIXES:
                yield Item.of_file(os.path.join(folder.path, file))
            else:
                passed_over[suffix] += 1


def _in_shard(name: str, passed_over: Counter[str]) -> Iterator[Item]:
    file = path_of(name)
    try:
        folders = list_shard(file, (), SUFFIXES)
    except OSError as error:
        yield Item.of_problem(name, error)
        return
    for folder in folders:
        for member, offset, size in zip(folder.names, folder.offsets, folder.sizes, strict=True):
            suffix = suffix_of(member)
            path = "/".join((name, *folder.parts, member))
            yield Item(ImageSource(file, offset, size), path, suffix if suffix in SUFFIXES else "")
        for member, problem in folder.problems.items():
            path = "/".join((name, *folder.parts, member))
            yield Item(ImageSource(file), path, suffix_of(member), f"OSError: {problem}")
        for member in folder.others:
            passed_over[suffix_of(member)] += 1


def _listed(opened: _Bytes) -> Iterator[str]:
    """Yield the names in a list, decoded as file names are; empty ones are passed over."""
    rest = opened.read(_BLOCK) or b""
    rest = rest.removeprefix(b"\xef\xbb\xbf")  # editors on Windows begin a text so
    separator = b"\0" if b"\0" in rest else b"\n"
    while True:
        *names, rest = rest.split(separator)
        for name in names:
            if name := _without_return(name, separator):
                yield os.fsdecode(name)
        block = opened.read(_BLOCK)
        if not block:
            break
        rest += block
    if rest := _without_return(rest, separator):
        yield os.fsdecode(rest)


def _without_return(name: bytes, separator: bytes) -> bytes:
    return name.removesuffix(b"\r") if separator == b"\n" else name
