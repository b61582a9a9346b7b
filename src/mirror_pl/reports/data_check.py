"""What was found of a benchmark on disk, for the screen and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.benchmarks.inspect import SubsetFiles
from mirror_pl.errors import name_list
from mirror_pl.labels import LABEL_NAMES
from mirror_pl.reports.confounds import SubsetAudit
from mirror_pl.reports.console import print_left_out, print_plain
from mirror_pl.texts import printable


@dataclass(frozen=True)
class DataCheck:
    """What was found of one benchmark.

    Attributes:
        index: Its files.
        subsets: What each subset holds.
        duplicates: Paths of a real and a fake with one content.
        undecodable: Reason by path; None where nothing was decoded.
        audits: What files tell of their labels; None where that was not asked. A confound is no
            problem: it is a property of the benchmark.
    """

    index: BenchmarkIndex
    subsets: list[SubsetFiles]
    duplicates: list[tuple[str, str]]
    undecodable: dict[str, str] | None = field(default=None)
    audits: list[SubsetAudit] | None = field(default=None)

    @property
    def problems(self) -> list[str]:
        """What makes the benchmark incomplete or unsound, each in a few words."""
        found = []
        if self.index.missing:
            found.append(f"{len(self.index.missing)} subsets missing")
        if self.index.unreadable:
            found.append(f"{len(self.index.unreadable)} folders cannot be listed")
        if self.duplicates:
            found.append(f"{len(self.duplicates)} images both real and fake")
        if self.undecodable:
            found.append(f"{len(self.undecodable)} images undecodable")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "benchmark": self.index.manifest.name,
            "images": len(self.index),
            "subsets": [
                {**asdict(files), "differs_from_expected": files.differs_from_expected, "biased": files.is_biased}
                for files in self.subsets
            ],
            "missing_subsets": self.index.missing,
            "unreadable_folders": self.index.unreadable,
            "passed_over": self.index.passed_over.counts,
            "duplicates": self.duplicates,
            "undecodable": self.undecodable,
            "problems": self.problems,
            "audits": None if self.audits is None else [audit.as_json() for audit in self.audits],
        }


def print_check(check: DataCheck, console: Console) -> None:
    """Print one benchmark's table and everything that is wrong with it."""
    index = check.index
    table = Table(
        title=f"{index.manifest.title}: {len(index):,} images", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("Dataset", overflow="fold")
    table.add_column("layout")
    for name in LABEL_NAMES:
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("expected", justify="right", no_wrap=True)
    table.add_column("formats", overflow="fold")
    for files in check.subsets:
        cells: list[str | Text] = [Text(printable(files.subset)), files.layout]
        for name in LABEL_NAMES:
            cells += [f"{files.counts[name]:,}", f"{files.expected[name]:,}" if name in files.expected else ""]
        real, fake = (" ".join(sorted(files.formats[name])) for name in LABEL_NAMES)
        table.add_row(*cells, real if real == fake else f"{real or '-'} / {fake or '-'}")
    console.print(table)
    for files in check.subsets:
        if files.is_biased:
            share = f"{100 * (files.format_bias or 0):.0f} %"
            print_plain(f"  format bias: in {files.subset} the file format alone tells {share} apart", console)
        if min(files.counts.values()) == 0:
            lacking = next(name for name in LABEL_NAMES if not files.counts[name])
            print_plain(f"  one class: {files.subset} has no {lacking} images; balanced accuracy is undefined", console)
    for real, fake in check.duplicates[:3]:
        print_plain(f"  both real and fake: {real} = {fake}", console)
    for path, reason in list((check.undecodable or {}).items())[:3]:
        print_plain(f"  undecodable: {path} ({reason})", console)
    print_left_out(index, console)
    if index.missing:
        print_plain(f"  to get what is missing: {index.manifest.how_to_get}", console)
    differing = [files.subset for files in check.subsets if files.differs_from_expected]
    if differing:
        print_plain(f"  other counts than expected: {name_list(differing)}", console)
    print_plain(f"  {'; '.join(check.problems) or 'all subsets are there'}", console)
