"""All charts of the pages, by matplotlib: each as an SVG file, as part of a page, and as the numbers that are drawn.

A part of a page has the page's colours, light or dark, and no style of its own, which the page's policy would refuse.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.curves import Curve
from mirror_pl.scores.reliability import Reliability
from mirror_pl.texts import csv_text, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Given = ParamSpec("_Given")
_Drawn = TypeVar("_Drawn")

COLOURS: Final = ("#0072b2", "#c94f00", "#00835f", "#a8457f", "#8a6d00", "#5b4fc4", "#28799f", "#4d4d4d")
"""Of detectors, told apart by colour-blind readers too; further detectors begin again with dashes."""

_INK, _SOFT, _LINE, _SHEET, _REALS = "#1c2126", "#5d6770", "#e2e5e7", "#ffffff", "#8d979f"
_VARIABLES: Final = {
    **{colour: f"var(--s{number})" for number, colour in enumerate(COLOURS)},
    **{_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)", _SHEET: "none", _REALS: "var(--reals)"},
}
"""What the colours are called in ``report.css``, which has others of these names for dark pages."""

_LEFT_OUT: Final = (
    "font-family", "stroke-linejoin", "stroke-linecap", "stroke-dashoffset", ("font-size", "8px"), ("fill", _SOFT)
)  # fmt: skip
"""Of a style, what the page has its own of, or what is not seen."""

WIDTH, HEIGHT = 245.0, 195.0
"""Of every chart, in points of 1/72 inch."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND = 42.0, 10.0, 24.0, 34.0, 12.0

FEW: Final = 10
"""A bin of fewer images is faint in a reliability diagram."""


@dataclass(frozen=True)
class Series:
    """A detector in charts: its position among the detectors, and what it is called."""

    number: int
    name: str

    @property
    def style(self) -> dict[str, Any]:
        """Colour and dashes of its lines."""
        return {"color": COLOURS[self.number % len(COLOURS)], "linestyle": "-" if self.number < len(COLOURS) else "--"}


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        label: What it shows, for those who do not see it.
        svg: A file, with a legend where detectors share the chart.
        legend_pt: Height of the legend, at the bottom, which a part of a page goes without.
        rows: The numbers that are drawn, a header first.
        name: Of its files; a page has each name once.
    """

    label: str
    svg: str = field(repr=False)
    legend_pt: float
    rows: tuple[tuple[object, ...], ...] = field(repr=False)
    name: str = ""

    def named(self, *words: object, taken: set[str]) -> Chart:
        """Return it with a name made of some words that is not among those `taken`, and add that."""
        name = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", str(word))[:40].strip("._") or "x" for word in words)
        number = next(n for n in range(1, len(taken) + 2) if (name if n == 1 else f"{name}-{n}") not in taken)
        name = name if number == 1 else f"{name}-{number}"
        taken.add(name)
        return replace(self, name=name)

    @property
    def csv(self) -> str:
        """The numbers, as the text of a file."""
        return csv_text(self.rows)

    @property
    def inline(self) -> Markup:
        """The chart as a part of a page, which has a width and colours for it."""
        root = ElementTree.fromstring(self.svg)
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', self.svg))
        *_, width, height = map(float, root.attrib["viewBox"].split())
        inner = Markup("").join(self._part(child, used) for child in root)
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart">{}</svg>').format(
            f"{width:g}", f"{height - self.legend_pt:g}", self.label, inner
        )

    def _part(self, element: ElementTree.Element, used: set[str]) -> Markup:
        """Write an element with what is in it; nothing of a legend, of styles, or of groups that say nothing."""
        tag, identity = element.tag.rpartition("}")[2], element.get("id", "")
        if identity == "legend" or tag in ("style", "metadata", "title"):
            return Markup("")
        attributes = {key.rpartition("}")[2]: value for key, value in element.items() if key != "id"}
        for declaration in filter(None, attributes.pop("style", "").split(";")):
            key, _, value = (part.strip() for part in declaration.partition(":"))
            if key == "font":
                key, value = "font-size", value.split()[0]
            if key not in _LEFT_OUT and (key, value) not in _LEFT_OUT:
                attributes[key] = _VARIABLES.get(value, value)
        if found := re.match(r"series-(\d+)", identity):
            attributes["data-series"] = found[1]
        if identity in used:
            attributes["id"] = f"{self.name}-{identity}"
        if attributes.get("transform", "").startswith("rotate(-0 "):
            del attributes["transform"]
        inner = Markup("").join([escape((element.text or "").strip()), *(self._part(child, used) for child in element)])
        if (not attributes and tag == "g") or (attributes.get("fill") == "none" and "stroke" not in attributes):
            return inner
        written = (Markup(' {}="{}"').format(key, self._short(value)) for key, value in attributes.items())
        return Markup("<{0}{1}>{2}</{0}>" if inner else "<{0}{1}/>").format(tag, Markup("").join(written), inner)

    def _short(self, value: str) -> str:
        """Give a reference the name that its target has, and numbers as many digits as are seen."""
        value = re.sub(r"(url\(#|^#)(?=[A-Za-z])", rf"\g<1>{self.name}-", value)
        value = re.sub(r"-?\d+\.\d+", lambda number: f"{round(float(number[0]), 1):g}", value)
        return re.sub(r"(?<=[MLCz]) | (?=[MLCz])", "", " ".join(value.split()))


def in_our_style(draw: Callable[_Given, _Drawn]) -> Callable[_Given, _Drawn]:
    """Draw by matplotlib's own defaults: a style of the user's, in a ``matplotlibrc``, is for other figures."""

    @wraps(draw)
    def drawn(*args: _Given.args, **kwargs: _Given.kwargs) -> _Drawn:
        from matplotlib.style import context

        with context("default"):
            return draw(*args, **kwargs)

    return drawn


@in_our_style
def roc(title: str, curves: Mapping[Series, Curve]) -> Chart:
    """Draw ROC curves, one per detector, on the images of a subset."""
    figure, (axes,) = _figure([title], list(curves))
    _unit(axes, "reals decided fake", "fakes found")
    axes.plot([0, 1], [0, 1], color=_SOFT, linestyle=":", linewidth=0.8, clip_on=False)
    return _curves(figure, axes, f"ROC curves, {title}", curves, ("false_positive_rate", "true_positive_rate"))


@in_our_style
def risk(title: str, curves: Mapping[Series, Curve]) -> Chart:
    """Draw risk-coverage curves: the error among the images decided, where only the surest are; up to one half."""
    figure, (axes,) = _figure([title], list(curves))
    _unit(axes, "coverage: share decided", "error among the decided")
    axes.set(ylim=(0, 0.5), yticks=(0, 0.25, 0.5))
    return _curves(figure, axes, f"Risk-coverage curves, {title}", curves, ("coverage", "error"))


@in_our_style
def reliability(title: str, series: Series, diagram: Reliability, label: str) -> Chart:
    """Draw a detector's reliability diagram: per bin that holds images, the share of fakes and its interval."""
    figure, (axes,) = _figure([title], [])
    _unit(axes, "mean p_fake", "share of fakes")
    axes.plot([0, 1], [0, 1], color=_SOFT, linestyle=":", linewidth=0.8, clip_on=False)
    columns = (diagram.mean_p_fake, diagram.fraction_fake, diagram.low, diagram.high)
    rows = [
        (int(count), *map(float, values))
        for count, values in zip(diagram.count, np.stack(columns, axis=1), strict=True)
        if count
    ]
    for part, (count, x, y, low, high) in enumerate(rows):
        colour, alpha = series.style["color"], 0.3 if count < FEW else 1
        gid = f"series-{series.number}-{part}"
        axes.plot([x, x], [low, high], color=colour, alpha=alpha, linewidth=1.2, clip_on=False, gid=f"{gid}-interval")
        axes.plot(x, y, "o", color=colour, alpha=alpha, markersize=4.5, markeredgewidth=0, clip_on=False, gid=gid)
    return _chart(figure, label, [("images", "mean_p_fake", "share_of_fakes", "low", "high"), *rows])


@in_our_style
def histogram(title: str, series: Series, reals: NDArray[np.int64], fakes: NDArray[np.int64]) -> Chart:
    """Draw distributions of p_fake; heights are square roots of a bin's share of its class, so that few images are seen."""
    figure, (axes,) = _figure([title], [])
    edges = np.linspace(0, 1, len(reals) + 1)
    heights = [np.sqrt(count / max(1, count.sum())) for count in (reals, fakes)]
    highest = max(1e-9, *(float(height.max()) for height in heights))
    _unit(axes, "p_fake", "fakes, reals")
    for height, way, colour, name in zip(heights, (1, -1), (_REALS, series.style["color"]), LABELS, strict=True):
        gid = f"series-{series.number}-{name}"
        axes.stairs(way * height / highest, edges, fill=True, color=colour, linewidth=0, clip_on=False, gid=gid)
    axes.axvline(0.5, color=_SOFT, linestyle=":", linewidth=0.8, clip_on=False)
    axes.axhline(0, color=_SOFT, linewidth=0.6, clip_on=False)
    axes.set(ylim=(-1, 1), yticks=())
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), reals.tolist(), fakes.tolist(), strict=True)
    return _chart(figure, f"Distribution of p_fake, {title}, {series.name}", [("from", "to", *LABELS), *rows])


LABELS: Final = ("reals", "fakes")


@in_our_style
def intervals(title: str, rows: Sequence[tuple[str, Series, Estimate]]) -> Chart:
    """Draw balanced accuracies with their intervals, one below the other under their names."""
    figure, (axes,) = _figure([title], [], left=96.0, height=max(HEIGHT, _TOP + _BOTTOM + 14.0 * len(rows)))
    held = [(place, series, one, one.value) for place, (_, series, one) in enumerate(rows) if one.value is not None]
    for place, series, one, value in held:
        ends = [value if end is None else end for end in (one.low, one.high)]
        gid = f"series-{series.number}-{place}"
        axes.plot(ends, [place] * 2, linewidth=1.4, alpha=0.6, clip_on=False, gid=f"{gid}-interval", **series.style)
        axes.plot(value, place, "o", color=series.style["color"], markersize=4.5, markeredgewidth=0, clip_on=False, gid=gid)
    lowest = min((one.value if one.low is None else one.low for *_, one, _ in held if one.value is not None), default=0.5)
    axes.set(xlim=(min(0.5, np.floor(lowest * 10) / 10), 1), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(_percent)
    axes.set_yticks(range(len(rows)), [printable(name) for name, _, _ in rows], parse_math=False)
    _plain(axes, "balanced accuracy in %", "")
    named = [(name, one.value, one.low, one.high) for name, _, one in rows]
    return _chart(figure, f"Balanced accuracy, {title}", [("name", "bal_acc", "low", "high"), *named])


@dataclass(frozen=True)
class Levels:
    """A family of perturbations: its levels, and what each detector has at each.

    Attributes:
        title: The family.
        names: Of the levels, the images as they are first.
        figures: Per detector, balanced accuracy at each level.
        classes: Per class, the accuracy at each level; only where there is one detector, to be readable.
    """

    title: str
    names: Sequence[str]
    figures: Mapping[Series, Sequence[Estimate]]
    classes: Mapping[str, Sequence[float | None]]


@in_our_style
def levels(title: str, families: Sequence[Levels]) -> Chart:
    """Draw balanced accuracy by perturbation and level: a panel per family, up to four in a row."""
    series = list(families[0].figures)
    figure, panels = _figure([family.title for family in families], series, across=4)
    rows: list[tuple[object, ...]] = [("family", "level", "detector", "bal_acc", "low", "high")]
    for number, (axes, family) in enumerate(zip(panels, families, strict=True)):
        axes.axhline(0.5, color=_SOFT, linewidth=0.5, clip_on=False)
        for dots, (name, values) in zip((":", "--"), family.classes.items(), strict=False):
            y = [np.nan if value is None else value for value in values]
            axes.plot(y, color=_SOFT, linestyle=dots, linewidth=1, clip_on=False, gid=f"{name}-{number}")
        for one, estimates in family.figures.items():
            gid = f"series-{one.number}-{number}"
            y = [np.nan if each.value is None else each.value for each in estimates]
            axes.plot(y, linewidth=1.5, marker="o", markersize=3.5, markeredgewidth=0, clip_on=False, gid=gid, **one.style)
            for x, each in enumerate(estimates):
                rows.append((family.title, family.names[x], one.name, each.value, each.low, each.high))
                if each.low is not None and each.high is not None:
                    bar = axes.vlines(
                        x, each.low, each.high, color=one.style["color"], alpha=0.5, linewidth=1, clip_on=False
                    )
                    bar.set_gid(f"{gid}-interval-{x}")
        axes.set(ylim=(0, 1), yticks=(0, 0.5, 1), xlim=(0, max(1, len(family.names) - 1)))
        axes.set_xticks(range(len(family.names)), [printable(name) for name in family.names], parse_math=False)
        axes.yaxis.set_major_formatter(_percent)
        _plain(axes, "", "balanced accuracy in %")
    return _chart(figure, f"Balanced accuracy by perturbation and level, {title}", rows)


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.0f}"


def _figure(
    titles: Sequence[str], legend: Sequence[Series], across: int = 1, left: float = _LEFT, height: float = HEIGHT
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per title, each of the size of a chart, and below them a legend of several detectors."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(across, len(titles))
    rows = -(-len(titles) // columns)
    legend_columns = columns if across > 1 else 2
    lines = -(-len(legend) // legend_columns) if len(legend) > 1 else 0
    legend_pt = _LEGEND * lines + (4 if lines else 0)
    total = WIDTH * columns, height * rows + legend_pt
    figure = Figure(figsize=(total[0] / 72, total[1] / 72), facecolor=_SHEET)
    panels = []
    for number, title in enumerate(titles):
        row, column = divmod(number, columns)
        bottom = total[1] - height * (row + 1) + _BOTTOM
        place = (WIDTH * column + left, bottom, WIDTH - left - _RIGHT, height - _TOP - _BOTTOM)
        axes = figure.add_axes((place[0] / total[0], place[1] / total[1], place[2] / total[0], place[3] / total[1]))
        axes.set_facecolor("none")
        axes.set_title(
            printable(title), loc="left", fontsize=9, color=_INK, fontweight="bold", parse_math=False,
            x=-left / place[2] + 0.02,
        )  # fmt: skip
        panels.append(axes)
    if lines:
        drawn = figure.legend(
            handles=[Line2D([], [], label=printable(one.name), **one.style) for one in legend],
            loc="lower left", ncols=legend_columns, fontsize=7, labelcolor=_INK, frameon=False, borderaxespad=0.2,
        )  # fmt: skip
        drawn.set_gid("legend")
        for text in drawn.get_texts():
            text.set_parse_math(False)
    return figure, panels


def _unit(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _plain(axes, x, y)


def _plain(axes: Axes, x: str, y: str) -> None:
    """Leave of the axes what a small chart needs: figures, and lines that are fainter than those of detectors."""
    axes.set_xlabel(x, color=_SOFT, fontsize=8)
    axes.set_ylabel(y, color=_SOFT, fontsize=8)
    axes.tick_params(bottom=False, left=False, labelcolor=_SOFT, labelsize=8)
    axes.grid(color=_LINE, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _curves(figure: Figure, axes: Axes, label: str, curves: Mapping[Series, Curve], names: tuple[str, str]) -> Chart:
    rows: list[tuple[object, ...]] = [("detector", *names)]
    for series, curve in curves.items():
        y = np.minimum(curve.y, axes.get_ylim()[1])  # of more than the axis has: on its upper end
        axes.plot(curve.x, y, linewidth=1.5, clip_on=False, gid=f"series-{series.number}", **series.style)
        rows += [(series.name, *point) for point in zip(curve.x.tolist(), curve.y.tolist(), strict=True)]
    return _chart(figure, label, rows)


def _chart(figure: Figure, label: str, rows: Sequence[tuple[object, ...]]) -> Chart:
    from matplotlib import rc_context

    file, label = io.StringIO(), printable(label)
    legend_pt = min(axes.get_position().y0 for axes in figure.axes) * figure.get_figheight() * 72 - _BOTTOM
    # The same figure has the same bytes: no date, and names of parts that do not hang on chance.
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mirror_pl"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a viewer has fonts of its own
        figure.savefig(file, format="svg", metadata={**nothing, "Title": label})
    return Chart(label, file.getvalue(), legend_pt, tuple(rows))
