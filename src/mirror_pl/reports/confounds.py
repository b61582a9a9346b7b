"""What the audit of a benchmark found: what its files tell of their labels, for the screen and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.benchmarks import Manifest
from mirror_pl.errors import name_list
from mirror_pl.reports.console import print_plain
from mirror_pl.reports.number_format import percent
from mirror_pl.scores.audit import ERROR_RATE, FEWEST, Audit, Separability
from mirror_pl.texts import printable

POOLED: Final = "all subsets"
"""Row of all images together."""

_SHOWN: Final = 3
_WORDS: Final = {
    "format": "file format",
    "jpeg_tables": "JPEG tables",
    "jpeg_quality": "JPEG quality",
    "exif": "EXIF",
    "file_size": "file size",
    "width": "width",
    "height": "height",
    "aspect_ratio": "aspect ratio",
}
_OF_FORMATS: Final = ("format", "jpeg_tables", "jpeg_quality")


@dataclass(frozen=True)
class SubsetAudit:
    """What was found of one subset.

    Attributes:
        subset: Its name, or `POOLED`.
        audit: None where a class has too few images.
        unread: Images whose file tells nothing, and which are in no figure.
        copies: Images left out because another one of their class is the same file.
    """

    subset: str
    audit: Audit | None
    unread: int
    copies: int

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found: dict[str, Any] = {"subset": self.subset, "unread": self.unread, "copies": self.copies}
        if self.audit is None:
            return found | {"reals": None, "fakes": None, "confound": None, "together": None, "alone": None}
        together = self.audit.together
        return found | {
            "reals": self.audit.reals,
            "fakes": self.audit.fakes,
            "confound": together.is_confound,
            "together": asdict(together),
            "alone": {name: asdict(one) for name, one in self.audit.alone.items()},
        }


def print_audits(manifest: Manifest, audits: Sequence[SubsetAudit], most: int, console: Console) -> None:
    """Print how well files tell real from fake, and in words where that is more than chance.

    Args:
        manifest: The benchmark.
        audits: Of its subsets.
        most: Images of each class and subset that were looked at, at most.
        console: Where to.
    """
    table = Table(
        title=f"{manifest.title}: real from fake by files alone (balanced accuracy in %)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Dataset", overflow="fold")
    for name in ("real", "fake", "all properties [95 %]"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("the strongest alone", overflow="fold")
    for one in audits:
        table.add_row(Text(printable(one.subset)), *_cells(one.audit))
    console.print(table)
    for one in audits:
        if one.audit is not None and one.audit.together.is_confound:
            print_plain(f"  confound: {_warning(manifest.name, one.subset, one.audit)}", console)
    sound = [one.subset for one in audits if one.audit is not None and not one.audit.together.is_confound]
    if sound:
        print_plain(f"  no confound found in: {name_list(sound)}", console)
    few = [one.subset for one in audits if one.audit is None]
    if few:
        print_plain(f"  not audited, for want of {FEWEST} images of each class: {name_list(few)}", console)
    unread, copies = (sum(getattr(one, kind) for one in audits if one.subset != POOLED) for kind in ("unread", "copies"))
    print_plain(
        f"  looked at: up to {most:,} images of each class and subset, drawn by chance; left out: {unread:,} that cannot be "
        f"read, {copies:,} copies. Of 100 subsets without a confound, up to {100 * ERROR_RATE:g} are said to have one",
        console,
    )


def _cells(audit: Audit | None) -> list[str]:
    if audit is None:
        return ["-", "-", "-", ""]
    strongest = ", ".join(
        f"{_WORDS[name]} {percent(one.balanced_accuracy)}" for name, one in islice(audit.alone.items(), _SHOWN)
    )
    together = audit.together
    interval = f"{percent(together.balanced_accuracy)} [{percent(together.low)}, {percent(together.high)}]"
    return [f"{audit.reals:,}", f"{audit.fakes:,}", interval, strongest]


def _warning(benchmark: str, subset: str, audit: Audit) -> str:
    name, strongest = next(iter(audit.alone.items()))
    place = benchmark if subset == POOLED else f"{benchmark}/{subset}"
    if not strongest.is_confound:
        return (
            f"properties of files together tell real from fake with {_number(audit.together)}: a detector may score well on "
            f"{place} by them"
        )
    hint = "; see format_align" if name in _OF_FORMATS else ""
    return (
        f"{_WORDS[name]} alone tells real from fake with {_number(strongest)} (all properties of files: "
        f"{_number(audit.together)}): a detector may score well on {place} by {_WORDS[name]} alone{hint}"
    )


def _number(found: Separability) -> str:
    chance = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    return f"balanced accuracy {found.balanced_accuracy:.2f} [{found.low:.2f}, {found.high:.2f}], {chance}"
