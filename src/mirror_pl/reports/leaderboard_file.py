"""``leaderboard.csv``: a row per detector and benchmark, with what it takes to repeat it; rows of several labs in one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from mirror_pl.errors import DataError, name_list
from mirror_pl.reports.detector_names import key_of
from mirror_pl.reports.gathered_runs import GatheredRun
from mirror_pl.reports.leaderboard import Result
from mirror_pl.texts import csv_text, printable

CONFLICT: Final = "conflict"
"""Marks rows of one claim with different figures."""


@dataclass(frozen=True)
class Claim:
    """A row of the file: each field is a column, as text; what is unknown is empty.

    Attributes:
        detector: Its name, without what tells it from others of the same name.
        benchmark: Its name.
        bal_acc: Mean balanced accuracy over subsets, a fraction.
        low: Lower end of its interval.
        high: Upper end.
        level: Of the interval.
        images: Distinct images with a score.
        subsets: How many of how many subsets entered the mean, as in ``2/3``.
        version: Of this package, that the run was made with.
        revision: Its commit, where it ran from a checkout.
        checkpoint_sha256: Of the weights.
        memory_sha256: Of a bank's own file.
        backbone_sha256: Of a backbone's own file or folder.
        data_fingerprint: Of the images: paths, sizes and labels.
        recipe: Precision, crops and their aggregation, and every setting that moves scores.
        repeat: Command that repeats the run, where its folder is.
        source: Run folder that the row is of, behind the name of each file that brought it; several are apart by ``" | "``.
        mark: `CONFLICT` or empty.
    """

    detector: str
    benchmark: str
    bal_acc: str
    low: str
    high: str
    level: str
    images: str
    subsets: str
    version: str
    revision: str
    checkpoint_sha256: str
    memory_sha256: str
    backbone_sha256: str
    data_fingerprint: str
    recipe: str
    repeat: str
    source: str
    mark: str = ""

    @property
    def subject(self) -> tuple[str, ...]:
        """What is claimed something of: two rows that agree in it must have the same figures."""
        weights = (self.checkpoint_sha256, self.memory_sha256, self.backbone_sha256)
        return (self.detector, self.benchmark, *weights, self.data_fingerprint, self.recipe)

    @property
    def figures(self) -> tuple[str, ...]:
        """What is claimed; balanced accuracy to six digits, for others may have added up in another order."""
        return (f"{float(self.bal_acc):.6f}" if self.bal_acc else "", self.images, self.subsets)


COLUMNS: Final = tuple(field.name for field in fields(Claim))


def claim_of(run: GatheredRun, result: Result, level: float) -> Claim:
    """Return the row of a complete run, whose figures are `result`, with intervals of `level`."""
    facts, key = run.facts or {}, key_of(run)
    protocol = facts.get("protocol") or {}
    crops = [f"crops {protocol['crops']}", f"{protocol['aggregate']} of {protocol['of']}s"] if protocol else []
    fitted = (facts.get("calibration") or {}).get("sha256")  # the variant says how, and on what, which leaves it open
    calibration = [f"calibration {fitted[:8]}"] if fitted else []
    recipe = dict.fromkeys(
        map(printable, (f"precision {key.precision}", *filter(None, [key.size]), *crops, *key.variant, *calibration))
    )
    folder = printable(run.folder.resolve())
    setting = f"repeat={folder}" if re.fullmatch(r"[\w./-]+", folder) else f"\"repeat='{folder}'\""
    bal_acc = result.headline
    return Claim(
        detector=key.name,
        benchmark=run.benchmark,
        bal_acc=_text(bal_acc.value),
        low=_text(bal_acc.low),
        high=_text(bal_acc.high),
        level=str(level),
        images=str(result.pooled.reals + result.pooled.fakes),
        subsets=f"{result.mean_rows['bal_acc']}/{result.subsets}",
        version=printable((facts.get("versions") or {}).get("mirror_pl", "")),
        revision=printable(facts.get("revision") or ""),
        checkpoint_sha256=key.checkpoint,
        memory_sha256=key.memory or "",
        backbone_sha256=key.backbone or "",
        data_fingerprint=printable(facts["data"].get("fingerprint") or ""),
        recipe="; ".join(recipe),
        repeat=f"python -m mirror_pl.eval {setting}",
        source=folder,
    )


def merge(claims: Iterable[Claim]) -> list[Claim]:
    """Put rows of several sources together, in the order in which they come first.

    Rows of one subject with the same figures become one, with all sources; those with different figures stay,
    one below the other, and are marked.
    """
    found: dict[tuple[str, ...], dict[tuple[str, ...], Claim]] = {}
    for claim in claims:
        same = found.setdefault(claim.subject, {})
        before = same.get(claim.figures)
        sources = dict.fromkeys(f"{before.source} | {claim.source}".split(" | ") if before else [claim.source])
        same[claim.figures] = replace(before or claim, source=" | ".join(sources))
    marks = {subject: CONFLICT if len(same) > 1 else "" for subject, same in found.items()}
    return [replace(claim, mark=marks[subject]) for subject, same in found.items() for claim in same.values()]


def leaderboard_csv(claims: Sequence[Claim]) -> str:
    """Return the file's text."""
    return csv_text([COLUMNS, *([getattr(claim, name) for name in COLUMNS] for claim in claims)])


def read_leaderboard(path: Path) -> list[Claim]:
    """Read a file of another report; each row's source begins with the file's name.

    Raises:
        DataError: If it cannot be read, or is no such file, with the line.
    """
    mend = "Give a leaderboard.csv that mirror_pl.report wrote, or leave this file out"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if (header := tuple(next(rows, ()))) != COLUMNS:
                got = name_list(header, 20) or "none"
                raise DataError(f"runs: {path} has the columns {got}, expected {', '.join(COLUMNS)}. {mend}")
            claims = []
            for row in rows:
                where = f"runs: {path}, line {rows.line_num}"
                if len(row) != len(COLUMNS):
                    raise DataError(f"{where}: {len(row)} columns, expected {len(COLUMNS)}. {mend}")
                claim = Claim(*map(printable, row))
                for name in ("bal_acc", "low", "high", "level"):
                    _check_fraction(getattr(claim, name), f"{where}: {name}", mend)
                if not claim.images.isdecimal():
                    raise DataError(f"{where}: images must be a whole number, got {claim.images!r}. {mend}")
                named = (
                    source if source.startswith(f"{path.name}: ") else f"{path.name}: {source}"
                    for source in claim.source.split(" | ")
                )
                claims.append(replace(claim, source=" | ".join(named)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"runs: {path} cannot be read: {error}. {mend}") from error
    return claims


def _check_fraction(value: str, where: str, mend: str) -> None:
    try:
        right = not value or 0 <= float(value) <= 1
    except ValueError:
        right = False
    if not right:
        raise DataError(f"{where} must be a fraction from 0 to 1, or empty, got {value!r}. {mend}")


def _text(value: float | None) -> str:
    return "" if value is None else str(value)
