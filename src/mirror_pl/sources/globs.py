"""Globs as the shell knows them, matched lazily and in a fixed order; the standard library's come in any order."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from typing import Final

from mirror_pl.sources.place import scheme_of
from mirror_pl.sources.tree import folders_below

# Names stay the text that they were given as, which pathlib would tidy, and pathlib is slow for a million files.

_MAGIC: Final = re.compile(r"[*?\[]")
_ANY_FOLDERS: Final = "**"


def has_magic(name: str) -> bool:
    """Whether a name has characters that mean something in a glob."""
    return _MAGIC.search(name) is not None


def matches(pattern: str) -> Iterator[str]:
    """Yield the paths that match a glob, each once; a folder's own matches come before those in its folders.

    ``*``, ``?`` and ``[...]`` match within a name; ``**`` any number of folders, none included, and, as the last part, all
    files in them. Names that begin with a dot are matched only by a part that does. Where there is ``**``, folders are no
    match, for their files are matches themselves.

    Args:
        pattern: With `has_magic`.
    """
    base = "/" if pattern.startswith("/") else scheme_of(pattern)
    parts = [part for part in pattern[len(base) :].split("/") if part]
    while parts and not has_magic(parts[0]):
        base = os.path.join(base, parts.pop(0))
    if parts[-1] == _ANY_FOLDERS:
        parts.append("*")
    states = _States(parts)
    reached = {base or ".": states.first}
    for folder in folders_below(base or "."):
        here = reached.pop(folder.path)
        prefix = "" if not base and folder.path == "." else folder.path
        path = prefix.removeprefix("./") if not base else prefix
        names = folder.files if _ANY_FOLDERS in parts else sorted([*folder.files, *folder.inner])
        for name in names:
            if states.last in states.after(here, name):
                yield os.path.join(path, name)
        inner = {name: states.after(here, name) - {states.last} for name in folder.inner}
        folder.inner[:] = [name for name in folder.inner if inner[name]]
        reached.update((os.path.join(folder.path, name), inner[name]) for name in folder.inner)


class _States:
    """How far into a pattern the names on the way to a file have come: the parts that may match the next name."""

    def __init__(self, parts: list[str]) -> None:
        self.last = len(parts)
        self._parts = parts
        self._compiled = [re.compile(fnmatch.translate(part)) for part in parts]
        self.first = self._closed({0})

    def after(self, states: frozenset[int], name: str) -> frozenset[int]:
        """Return the states after a name."""
        found = set()
        for state in states:
            if state == self.last:
                continue
            part, hidden = self._parts[state], name.startswith(".")
            if part == _ANY_FOLDERS:
                if not hidden:
                    found.add(state)
            elif self._compiled[state].match(name) and (part.startswith(".") or not hidden):
                found.add(state + 1)
        return self._closed(found)

    def _closed(self, states: set[int]) -> frozenset[int]:
        """Add what may match where ``**`` stands for no folder."""
        for state in range(self.last):
            if state in states and self._parts[state] == _ANY_FOLDERS:
                states.add(state + 1)
        return frozenset(states)
