"""What has changed between two mappings of plain values: settings, or what a result depends on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_MOST: Final = 4


def different(one: Any, two: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys that two mappings differ in; one path written in two ways is the same."""
    if isinstance(one, dict) and isinstance(two, dict):
        for name in {*one, *two}:
            yield from different(one.get(name), two.get(name), f"{key}.{name}" if key else str(name))
    elif one != two and not (isinstance(one, str) and isinstance(two, str) and Path(one).absolute() == Path(two).absolute()):
        yield key


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what has changed, in words: the first few keys, with both values; empty where nothing has.

    Args:
        before: As read from JSON.
        now: Plain values, which JSON may hold otherwise, such as tuples.
    """
    changed = sorted(set(different(before, json.loads(json.dumps(now)))))
    if not changed:
        return ""
    said = "; ".join(f"{key}: {_at(before, key)} then, {_at(now, key)} now" for key in changed[:_MOST])
    return said + (f", and {len(changed) - _MOST} more" if len(changed) > _MOST else "")


def _at(values: Any, key: str) -> Any:
    """Return what a nested mapping has at a dotted key; names with dots in them are found too."""
    if not isinstance(values, Mapping):
        return values
    for name, value in values.items():
        if key == name:
            return value
        if key.startswith(f"{name}."):
            return _at(value, key[len(name) + 1 :])
    return "none"
