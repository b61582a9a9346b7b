"""A map laid over its picture, where the detector's crop lies in it, with matplotlib's colours and colour bar.

Crops of one size of the picture are drawn together, and where they overlap their mean is shown. Crops of other sizes of it,
as of ``crops=multiscale``, belong into pictures of their own.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mirror_pl.reports.charts import in_our_style

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the picture; what lies outside of it is padding."""


@dataclass(frozen=True)
class MapKind:
    """What a map shows, in words for its legend."""

    title: str
    unit: str


MAPS: Final = {
    "residual_norm": MapKind("Residual norm", "feature units"),
    "entropy": MapKind("Retrieval entropy", "nats"),
    "max_weight": MapKind("Largest retrieval weight", "share"),
}
"""The maps by their name in `TokenMaps`."""


@dataclass(frozen=True, eq=False)
class MapLayer:
    """A map ``(rows, cols)`` and the place of its crop in the picture."""

    values: NDArray[np.floating]
    box: Box


@dataclass(frozen=True)
class ColourRange:
    """The values at the two ends of the colours.

    Attributes:
        low: Shown in dark violet, as is all below.
        high: Shown in yellow, as is all above.
        fixed: Whether it was given, and so may be the same for many pictures, or is this picture's own.
    """

    low: float
    high: float
    fixed: bool = True

    @property
    def colours(self) -> ScalarMappable:
        """What gives values their colours; `NOT_FINITE` to those that are not finite."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        return ScalarMappable(Normalize(self.low, self.high, clip=True), colormaps["viridis"].with_extremes(bad=NOT_FINITE))


def own_range(layers: Sequence[MapLayer]) -> ColourRange:
    """Return the least and the largest finite value of some maps; 0 and 0 where there is none."""
    finite = [layer.values[np.isfinite(layer.values)] for layer in layers]
    values = np.concatenate([np.zeros(0), *finite])
    return ColourRange(float(values.min()), float(values.max()), False) if len(values) else ColourRange(0.0, 0.0, False)


NOT_FINITE: Final = "magenta"
"""For a value that is not finite; no colour of viridis."""


def colours_of(values: NDArray[np.floating], colours: ColourRange) -> NDArray[np.uint8]:
    """Return the colours ``(..., 3)`` of values."""
    return colours.colours.to_rgba(np.ma.masked_invalid(values), bytes=True)[..., :3]


SIDE_PX: Final = 512
"""Longer side of a drawn picture, at most."""
OPACITY: Final = 0.6
"""Of a map over its picture, which is grey beneath it, so that every hue is the map's."""
LEAST_PATCH_PX: Final = 8
"""Where patches would be smaller than this in the whole picture, the crop is shown enlarged below it."""


def overlay(
    picture: Image.Image, layers: Sequence[MapLayer], colours: ColourRange | None = None, side_px: int = SIDE_PX
) -> Image.Image:
    """Lay maps over the whole picture, with the outlines of their crops and without a legend.

    Args:
        picture: RGB, of the size that the boxes refer to. Padding around it is black, as the detector sees it.
        layers: Maps of one kind; at least one.
        colours: Range of the colours; None takes that of these maps.
        side_px: Longer side of the result, at most, and of an enlarged crop below. Small pictures are enlarged.
    """
    colours = colours or own_range(layers)
    drawn = [_drawn(picture, layers, colours, view) for view in _views(picture, layers, side_px)]
    size = (max(part.width for part in drawn), sum(part.height + _GAP for part in drawn) - _GAP)
    stacked = Image.new("RGB", size, _PAPER)
    top = 0
    for part in drawn:
        stacked.paste(part, ((stacked.width - part.width) // 2, top))
        top += part.height + _GAP
    return stacked


def draw_map(
    picture: Image.Image,
    layers: Sequence[MapLayer],
    kind: MapKind,
    colours: ColourRange | None = None,
    notes: Sequence[str] = (),
    side_px: int = SIDE_PX,
) -> Image.Image:
    """Lay maps over the whole picture, and put a colour bar with its ends and unit below.

    Args:
        picture: See `overlay`.
        layers: Likewise.
        kind: What they show.
        colours: Likewise; the legend says whether the range was given.
        notes: Further sentences for the legend.
        side_px: Likewise.
    """
    colours = colours or own_range(layers)
    drawn = overlay(picture, layers, colours, side_px)
    notes = [*_remarks(picture, layers, colours, len(_views(picture, layers, side_px)) > 1), *notes]
    figure = legend_of(max(drawn.width, _LEAST_LEGEND_PX), kind, colours, notes)
    content = BytesIO()
    figure.savefig(content, format="png")
    legend = Image.open(content).convert("RGB")
    whole = Image.new("RGB", (legend.width, drawn.height + legend.height), _PAPER)
    whole.paste(drawn, ((legend.width - drawn.width) // 2, 0))
    whole.paste(legend, (0, drawn.height))
    return whole


@dataclass(frozen=True)
class _View:
    """A part of the picture's plane and how it is drawn: `factor` drawn pixels for each of its own."""

    left: int
    top: int
    right: int
    bottom: int
    factor: float

    @classmethod
    def around(cls, boxes: Sequence[Box], side_px: int) -> _View:
        left, top = (math.floor(min(box[at] for box in boxes) + _ROUNDING) for at in (0, 1))
        right, bottom = (math.ceil(max(box[at] for box in boxes) - _ROUNDING) for at in (2, 3))
        longer = max(right - left, bottom - top)
        # Enlarged by whole numbers, so that all pixels of a small picture are of one size.
        return cls(left, top, right, bottom, side_px / longer if longer > side_px else side_px // longer)

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.right - self.left, self.bottom - self.top
        return max(1, round(width * self.factor)), max(1, round(height * self.factor))

    def places(self, low: float, high: float, count: int, axis: int) -> NDArray[np.int64]:
        """Return, for each drawn column (axis 0) or row, which of `count` parts of low to high it shows; -1 for none."""
        start, end = (self.left, self.right) if axis == 0 else (self.top, self.bottom)
        drawn = self.size[axis]
        middle = start + (np.arange(drawn) + 0.5) * (end - start) / drawn
        part = np.floor((middle - low) / (high - low) * count).astype(np.int64)
        return np.where((part >= 0) & (part < count), part, -1)

    def drawn_box(self, box: Box) -> tuple[int, int, int, int]:
        """Return the drawn pixels, both ends included, that a box comes to."""
        left, right = (round((value - self.left) * self.factor) for value in (box[0], box[2]))
        top, bottom = (round((value - self.top) * self.factor) for value in (box[1], box[3]))
        width, height = self.size
        return max(0, left), max(0, top), max(1, min(right, width)) - 1, max(1, min(bottom, height)) - 1


def _views(picture: Image.Image, layers: Sequence[MapLayer], side_px: int) -> list[_View]:
    """Return how the whole picture is drawn; and its part with crops, where patches would be too small and it helps."""
    boxes = [layer.box for layer in layers]
    whole, close = _View.around([(0, 0, *picture.size), *boxes], side_px), _View.around(boxes, side_px)
    patch_px = min((layer.box[2] - layer.box[0]) / layer.values.shape[1] for layer in layers) * whole.factor
    return [whole, close] if patch_px < LEAST_PATCH_PX and close.factor >= 1.5 * whole.factor else [whole]


_ROUNDING = 1e-6
"""Of boxes: an end that is a whole number but for float rounding is that number."""


def _drawn(picture: Image.Image, layers: Sequence[MapLayer], colours: ColourRange, view: _View) -> Image.Image:
    # Pillow fills what lies outside the picture with zeros.
    part = picture.convert("RGB").crop((view.left, view.top, view.right, view.bottom))
    filter_ = Image.Resampling.LANCZOS if view.factor < 1 else Image.Resampling.NEAREST
    shown = part.resize(view.size, filter_, reducing_gap=2.0)
    pixels = np.asarray(shown).astype(float)
    total, count = np.zeros(pixels.shape[:2]), np.zeros(pixels.shape[:2], np.int64)
    for layer in layers:
        rows, cols = layer.values.shape
        across = view.places(layer.box[0], layer.box[2], cols, 0)
        down = view.places(layer.box[1], layer.box[3], rows, 1)
        here = np.ix_(np.flatnonzero(down >= 0), np.flatnonzero(across >= 0))
        total[here] += layer.values[np.ix_(down[down >= 0], across[across >= 0])]
        count[here] += 1
    covered = count > 0
    drawn = colours_of(total[covered] / count[covered], colours)
    grey = np.asarray(shown.convert("L")).astype(float)[covered][:, None]
    pixels[covered] = (1 - OPACITY) * grey + OPACITY * drawn
    result = Image.fromarray(np.rint(pixels).astype(np.uint8))
    pen = ImageDraw.Draw(result)
    for layer in layers:
        left, top, right, bottom = view.drawn_box(layer.box)
        pen.rectangle((left, top, right, bottom), outline="white")
        if len(layers) == 1 and min(right - left, bottom - top) > 4:  # so that it shows on a white picture too
            pen.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline="black")
    return result


_PAPER, _INK, _SOFT = "#ffffff", "#1c2126", "#5d6770"
_GAP, _MARGIN, _LEAST_LEGEND_PX = 12, 12, 360
_LINE_PX, _TITLE_PX, _TEXT_PX = 18, 15, 13
_LETTER_PX = 0.55
"""Width of a letter over its size, in the mean."""


@in_our_style
def legend_of(width: int, kind: MapKind, colours: ColourRange, notes: Sequence[str]) -> Figure:
    """Return what stands below a map, as wide as many pixels: its name, a colour bar, and what else is to be known."""
    from matplotlib.figure import Figure

    inner = width - 2 * _MARGIN
    title = textwrap.wrap(f"{kind.title} of each patch ({kind.unit})", int(inner / (_LETTER_PX * _TITLE_PX)))
    lines = [line for note in notes for line in textwrap.wrap(note, int(inner / (_LETTER_PX * _TEXT_PX)))]
    bar = _MARGIN + (_LINE_PX + 4) * len(title)
    height = bar + 2 * _LINE_PX + _LINE_PX * len(lines) + 2 * _MARGIN
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=_PAPER)

    def write(top: float, lines: Sequence[str], size_px: float, colour: str) -> None:
        gap = _LINE_PX / size_px / 1.2  # of matplotlib's own line height
        place = _MARGIN / width, 1 - top / height
        figure.text(*place, "\n".join(lines), size=size_px, color=colour, va="top", linespacing=gap, parse_math=False)

    write(_MARGIN, title, _TITLE_PX, _INK)
    axes = figure.add_axes((_MARGIN / width, 1 - (bar + 16) / height, inner / width, 16 / height))
    ends = sorted({colours.low, (colours.low + colours.high) / 2, colours.high})
    figure.colorbar(colours.colours, cax=axes, orientation="horizontal", ticks=ends)
    labels = axes.set_xticklabels([number(end, colours) for end in ends])
    labels[0].set_horizontalalignment("left" if len(ends) > 1 else "center")
    labels[-1].set_horizontalalignment("right" if len(ends) > 1 else "center")
    axes.tick_params(labelsize=_TEXT_PX, labelcolor=_INK, color=_INK)
    write(bar + 2 * _LINE_PX + 8, lines, _TEXT_PX, _SOFT)
    return figure


def number(value: float, colours: ColourRange) -> str:
    """Write a value with as many digits as its range needs."""
    span = abs(colours.high - colours.low) or abs(colours.high) or 1.0
    digits = max(0, 2 - math.floor(math.log10(span)))
    return f"{value:.{digits}f}" if digits <= 6 and abs(value) < 1e6 else f"{value:.3g}"


def _remarks(picture: Image.Image, layers: Sequence[MapLayer], colours: ColourRange, is_enlarged: bool) -> Iterator[str]:
    """Say what the colours and the outlines mean in this picture."""
    values = np.concatenate([layer.values.ravel() for layer in layers])
    if colours.fixed:
        beyond = int(((values < colours.low) | (values > colours.high)).sum())
        yield f"The scale was given{f'; {beyond} of {len(values)} patches lie beyond it' if beyond else ''}."
    else:
        yield "The scale is this picture's own, from its least to its largest patch."
    if is_enlarged:
        yield f"Below it, the {'crop' if len(layers) == 1 else 'part with the crops'}, enlarged."
    boxes = np.array([layer.box for layer in layers])
    if len(layers) > 1:
        yield f"{len(layers)} crops; where they overlap, their mean."
    if boxes[:, :2].min() < -_ROUNDING or (boxes[:, 2:].max(axis=0) > np.array(picture.size) + _ROUNDING).any():
        yield "Black around the picture is padding, as the detector sees it."
    if not np.isfinite(values).all():
        yield "Magenta: no finite value."
