"""Pages of pictures with their maps: the gallery of a run, which is one file, and the index of a folder of maps.

They need no network and no JavaScript. Every name in them is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from mirror_pl.reports.html_page import page_templates, policy

_STYLES: Final = ["report.css", "pictures.css"]


@dataclass(frozen=True)
class Tile:
    """A picture, or a map on it.

    Attributes:
        source: Of the picture; see `embedded` and `beside`. Empty where there is none.
        caption: What it is, or, without a source, why there is none.
        size: Width and height of the picture, so that its place is kept free; None where there is none.
        ends: What the colours begin and end with, for a map whose picture has no legend; empty for others.
    """

    source: str
    caption: str
    size: tuple[int, int] | None = None
    ends: tuple[str, str] | tuple[()] = ()


@dataclass(frozen=True)
class Card:
    """One image: what is known of it, the verdict first, its tiles side by side, and its name."""

    name: str
    facts: tuple[str, ...]
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Section:
    """Images under a title."""

    title: str
    lead: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Part:
    """Sections with a title and facts in common, such as those of a run."""

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]


def picture_page(
    title: str,
    lead: str,
    parts: Sequence[Part],
    notes: Sequence[tuple[str, str]] = (),
    pages: Sequence[tuple[str, str]] = (),
    layout: Literal["small", "maps", "legends"] = "small",
) -> str:
    """Return a page.

    Args:
        title: Of the page.
        lead: A sentence below it.
        parts: What it shows.
        notes: Words and what they mean, for the end of the page.
        pages: Words and file names of other pages beside this one, to go on to.
        layout: Of the tiles: "small", one per image; "maps", side by side; "legends", large enough for text in them.
    """
    return (
        page_templates()
        .get_template("pictures.jinja")
        .render(
            policy=policy(_STYLES, images="'self' data:"),
            styles=_STYLES,
            title=title,
            lead=lead,
            parts=parts,
            notes=notes,
            layout=layout,
            pages=[(words, beside(name)) for words, name in pages],
        )
    )


def embedded(content: bytes, kind: str = "jpeg") -> str:
    """Return the source of a picture that is part of the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def beside(name: str) -> str:
    """Return the source of a picture in a file beside the page, whatever characters its name has."""
    return f"./{quote(name)}"
