"""Which runs are of one detector, and what it is called: as short a label as tells it from the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from mirror_pl.reports.gathered_runs import GatheredRun
from mirror_pl.texts import printable

SETTINGS = ("quantise", "tf32", "perturb", "format_align")
"""Settings that move scores, and are part of what a detector is here."""

_NO_OPTIONS = ("name", "_target_", "checkpoint", "merge_lora", "size", "head")
"""Of the config's ``detector``, what every detector has; the rest are settings of its own, and move scores."""

_USUAL: tuple[Any, ...] = (None, False, "", "clean")
"""Values of these settings that leave scores as published."""
_NAMELESS = "mirror"
"""What the oldest runs are of, which do not say it."""

PUBLISHED_PROTOCOL = "published protocol"
"""Added to the label of what was run with ``compat=published``."""


@dataclass(frozen=True)
class DetectorKey:
    """What makes two runs those of one detector; weights count by content, not by path.

    Its name counts too: detectors that are not trained may look through the same weights.
    """

    name: str
    checkpoint: str
    memory: str | None
    backbone: str | None
    precision: str
    size: str
    variant: tuple[str, ...]


@dataclass(frozen=True)
class DetectorName:
    """A detector in a report.

    Attributes:
        key: What it is.
        label: What it is called in the report; no other one there is called the same.
        published_as: Its name among the published numbers; None where it is none of theirs, or was run in another way.
        checkpoint: Path of its weights.
        miniature: Whether it is the miniature, which is no detector for the real world.
    """

    key: DetectorKey
    label: str
    published_as: str | None
    checkpoint: str
    miniature: bool


def key_of(run: GatheredRun) -> DetectorKey:
    """Return what detector a complete run is of."""
    assert run.facts is not None
    memory, backbone = ((run.facts.get(name) or {}).get("sha256") for name in ("memory", "backbone"))
    name = printable(str(run.facts["detector"].get("name", _NAMELESS)))
    sha256, precision = run.facts["checkpoint"]["sha256"], run.facts["precision"]
    return DetectorKey(name, sha256, memory, backbone, precision, _size(run), _variant(run))


def short_names(names: Sequence[str], width: int = 28) -> dict[str, str]:
    """Return what long names are called where there is little room, by name.

    A name of up to `width` characters stays. Of a longer one stand its first and its last words, as many as fit, with "…"
    between. Where that is what another one is called, a number follows.
    """
    found: dict[str, str] = {}
    for name in names:
        short = name if len(name) <= width else _first_and_last(name, width)
        taken = {*found.values(), *names} - {name}
        numbered = (short, *(f"{short} {number}" for number in range(2, len(names) + 2)))
        found[name] = next(one for one in numbered if one not in taken)
    return found


def _first_and_last(name: str, width: int) -> str:
    words = re.findall(r"[^\s/_-]*[\s/_-]?", name)
    first = last = ""
    while len(first + words[0]) <= 0.6 * width:
        first += words.pop(0)
    while words and len(first + words[-1] + last) < width:
        last = words.pop() + last
    return f"{first.rstrip(' (') or name[: width // 2]}…{last.strip('() ')}"


def name_detectors(runs: Iterable[GatheredRun]) -> list[DetectorName]:
    """Name the detectors of some complete runs, in the order in which they come first."""
    latest: dict[DetectorKey, GatheredRun] = {}
    for run in runs:
        key = key_of(run)
        if key not in latest or run.finished >= latest[key].finished:
            latest[key] = run  # keeps the place of the first
    named = []
    for key, run in latest.items():
        others = {other: latest[other] for other in latest if other.name == key.name}
        alike = [other for other in others if other.checkpoint == key.checkpoint]
        told = [getattr(key, part) for part in ("precision", "size") if len({getattr(one, part) for one in alike}) > 1]
        added = [*_weights(key, others), *filter(None, told), *key.variant]
        label = f"{key.name} ({', '.join(added)})" if added else key.name
        as_published = set(key.variant) <= {PUBLISHED_PROTOCOL}
        miniature = bool(run.facts and run.facts.get("miniature"))
        named.append(DetectorName(key, label, key.name if as_published else None, run.checkpoint, miniature))
    return named


def _size(run: GatheredRun) -> str:
    """Say what size its detector was given; empty where that was left to the weights."""
    options = run.settings.get("detector")
    size = options.get("size") if isinstance(options, Mapping) else None
    return printable(" ".join(["size", *(f"{part} {size[part]}" for part in sorted(size))])) if size else ""


def _variant(run: GatheredRun) -> tuple[str, ...]:
    """Say in which way the detector was run that is not its usual one."""
    assert run.facts is not None
    said = []
    for name in SETTINGS:
        value = run.settings.get(name)
        value = "+".join(map(str, value)) if isinstance(value, list) else value
        if value is True:
            said.append(name)
        elif value not in _USUAL:
            said.append(f"{name} {value}")
    options = run.settings.get("detector")
    said += [
        f"{name} {'+'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in (options if isinstance(options, Mapping) else {}).items()
        if name not in _NO_OPTIONS and value is not None
    ]
    protocol = run.facts.get("protocol", {"as_published": True})  # the oldest runs knew no other
    if not protocol["as_published"]:
        said += [f"crops {protocol['crops']}", f"{protocol['aggregate']} of {protocol['of']}s"]
    calibrated = run.facts.get("calibrated")
    if isinstance(calibrated, Mapping):
        origin = calibrated["fitted_on"]
        subset = f"/{origin['subsets'][0]}" if len(origin["subsets"]) == 1 else ""
        said.append(f"+ {calibrated['method']} of {origin['benchmark']}{subset}")
    if run.facts.get("variant"):
        said.append(str(run.facts["variant"]))
    if run.metrics.get("compat"):
        said.append(PUBLISHED_PROTOCOL)
    return tuple(map(printable, said))


def _weights(key: DetectorKey, others: Mapping[DetectorKey, GatheredRun]) -> list[str]:
    """Tell its weights from those of the others: by file name, by the folders above, at last by hash."""
    added = []
    paths = {other.checkpoint: run.checkpoint for other, run in others.items()}
    if len(paths) > 1:
        added.append(_shortest(paths, key.checkpoint))
    alike = [other for other in others if other.checkpoint == key.checkpoint]
    for what, its in (("memory", key.memory), ("backbone", key.backbone)):
        if len({getattr(other, what) for other in alike}) > 1:
            added.append(f"{what} {its[:8]}" if its else f"its own {what}")
    return added


def _shortest(paths: Mapping[str, str], chosen: str) -> str:
    """Return the end of a path that no other one has, of up to three names; else the beginning of the hash."""
    for count in (1, 2, 3):
        ends = {digest: _end(path, count) for digest, path in paths.items()}
        if list(ends.values()).count(ends[chosen]) == 1:
            return ends[chosen]
    return chosen[:8]


def _end(path: str, count: int) -> str:
    parts = PurePath(path).parts
    name = PurePath(path).name
    for suffix in (".pth", ".ckpt"):  # a folder's name may have dots of its own
        name = name.removesuffix(suffix)
    return "/".join((*parts[-count:-1], name))


def latest_runs(
    runs: Sequence[GatheredRun],
) -> tuple[dict[tuple[DetectorKey, str], GatheredRun], list[tuple[GatheredRun, GatheredRun]]]:
    """Choose, of several complete runs of one detector on one benchmark, the one that was finished last.

    Returns:
        The chosen runs by detector and benchmark, and each one passed over with the one that counts instead.
    """
    chosen: dict[tuple[DetectorKey, str], GatheredRun] = {}
    for run in sorted(runs, key=lambda run: run.finished):
        chosen[key_of(run), run.benchmark] = run
    passed_over = [(run, counts) for run in runs if (counts := chosen[key_of(run), run.benchmark]) is not run]
    return chosen, passed_over
