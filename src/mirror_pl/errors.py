"""The errors a user can cause, each with the exit code its command ends with.

A message says what is wrong, where, what was got and expected, and the command that mends it. Everything else that is
raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

from mirror_pl.texts import printable

EXIT_COMPLETE = 0
"""Everything asked for was done."""
EXIT_DEFECT = 1
"""A defect of ours, or an error from a library that was not foreseen."""
EXIT_NOT_STARTED = 2
"""Bad arguments, data or checkpoint: nothing was evaluated or written."""
EXIT_INCOMPLETE = 3
"""Everything was written, but some images have no score, or a required subset is absent."""
EXIT_NOT_WRITTEN = 4
"""A result could not be written."""


class MirrorError(Exception):
    """Base of all errors a user can cause; `exit_code` is what the command ends with."""

    exit_code = EXIT_NOT_STARTED


class ConfigError(MirrorError):
    """A setting is unknown, missing or contradicts another one."""


class DataError(MirrorError):
    """A data folder is missing or does not hold what the benchmark needs."""


class BenchmarkAbsentError(DataError):
    """Nothing of a benchmark is on disk; in a sweep over many, that is no failure."""

    def __init__(self, message: str, note: str) -> None:
        super().__init__(message)
        self.note = note
        """One line: which benchmark, and how to get it."""


class CheckpointError(MirrorError):
    """A weight file is missing, damaged, unsafe, or does not fit the detector asked for."""


class OutputError(MirrorError):
    """A file or folder cannot be written."""

    exit_code = EXIT_NOT_WRITTEN


class IncompleteRunError(MirrorError):
    """The run wrote its results, but they are not what was asked for in full."""

    exit_code = EXIT_INCOMPLETE


class LostProcessError(MirrorError):
    """One of the processes of a run died."""

    def __init__(self, message: str, code: int) -> None:
        """Take what that process ended with; below 0, it was killed by a signal."""
        super().__init__(message)
        self.exit_code = code if code in (EXIT_NOT_STARTED, EXIT_NOT_WRITTEN) else EXIT_DEFECT


def name_list(names: Iterable[str], limit: int = 8) -> str:
    """Join `names` for a message, the first `limit` of them, saying how many are left out; very long ones are cut short."""
    names = list(names)
    first = ", ".join(printable(name if len(name) <= 500 else f"{name[:500]}...") for name in names[:limit])
    return first if len(names) <= limit else f"{first}, ... ({len(names) - limit} more)"


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 100, 100

    def repr_instance(self, x: object, level: int) -> str:  # noqa: ARG002 - reprlib calls it so
        return repr(x) if x is None or isinstance(x, bool | float) else f"<{type(x).__name__}>"


def shown(value: object) -> str:
    """Return a value out of a file as text for a message, cut short: it may be of any size, and nested without end."""
    try:
        return _Shown().repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"<{type(value).__name__}>"


def nearest(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean X?" for the option closest to `name`, ignoring letter case, or an empty string."""
    by_folded = {option.casefold(): option for option in options}
    folded = name.casefold()
    longer = [option for option in by_folded if option.startswith(folded)]
    close = longer if len(longer) == 1 else get_close_matches(folded, by_folded, n=1, cutoff=0.5)
    return f" Did you mean {by_folded[close[0]]}?" if close else ""
