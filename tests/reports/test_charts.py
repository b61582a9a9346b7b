"""Charts as files and as parts of a page: what is drawn, in whose colours, and that nothing in them hangs on chance."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rcParams

import mirror_pl
from mirror_pl.reports import charts
from mirror_pl.reports.charts import Chart, Levels, Series
from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.curves import Curve
from mirror_pl.scores.reliability import reliability

TEN = [Series(number, f"d{number} <$x_1$> \u4e2d") for number in range(10)]
X = np.linspace(0, 1, 30)
CURVES = {one: Curve(X, X ** (1 / (1 + one.number)), X) for one in TEN}
DIAGRAM = reliability(np.array([0] * 40 + [1] * 3), np.array([0.1] * 40 + [0.95] * 3, np.float32))
FAMILY = Levels("jpeg", ["clean", "90"], {TEN[0]: [Estimate(0.9, 0.8, 1.0), Estimate(None)]}, {"real_acc": [0.9, None]})


def all_charts() -> list[Chart]:
    return [
        charts.roc("a & b", CURVES),
        charts.risk("all", {TEN[1]: CURVES[TEN[1]]}),
        charts.reliability("r", TEN[9], DIAGRAM, "Reliability"),
        charts.histogram("h", TEN[2], np.arange(40), np.zeros(40, np.int64)),
        charts.intervals("i", [(one.name, one, Estimate(0.5 + one.number / 20, 0.4, 0.96)) for one in TEN]),
        charts.levels("suite", [FAMILY] * 6),
    ]


def test_the_same_figures_give_the_same_bytes() -> None:
    assert [chart.svg for chart in all_charts()] == [chart.svg for chart in all_charts()]


def test_a_style_of_the_users_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [chart.svg for chart in all_charts()]
    for key, value in {"text.usetex": True, "axes.grid": True, "font.size": 30, "svg.fonttype": "path"}.items():
        monkeypatch.setitem(rcParams, key, value)
    assert [chart.svg for chart in all_charts()] == before
    assert rcParams["text.usetex"] is True


def test_what_no_svg_may_hold_becomes_an_escape() -> None:
    name, one = "a\x01\udcff\u202e", Series(0, "b\x02")
    curves = {one: CURVES[TEN[0]], Series(1, "c\x03"): CURVES[TEN[0]]}
    family = Levels(name, [name], {one: [Estimate(0.9)]}, {})
    for chart in (
        charts.roc(name, curves),
        charts.intervals(name, [(name, one, Estimate(0.5))]),
        charts.histogram(name, one, np.arange(40), np.arange(40)),
        charts.levels(name, [family]),
    ):
        ElementTree.fromstring(chart.svg)
        assert "\\x01" in chart.svg
        assert not re.search("[\x01-\x03\udcff\u202e]", chart.svg + chart.inline)


def test_parts_of_a_page_have_names_of_their_own_and_no_style() -> None:
    taken: set[str] = set()
    named = [chart.named("x/y", kind, taken=taken) for chart in all_charts() for kind in ("one", "one")]
    assert len({chart.name for chart in named}) == 12
    assert named[0].name == "x_y-one"
    page = "".join(chart.inline for chart in named)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) == set(ids)
    assert "style" not in page
    assert "#0072b2" not in page
    for chart in named:
        root = ElementTree.fromstring(chart.inline)
        assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", chart.label)
        assert "width" not in root.attrib
        assert float(root.attrib["viewBox"].split()[2]) in (charts.WIDTH, 4 * charts.WIDTH)


def test_a_legend_is_in_the_file_and_the_page_has_its_own() -> None:
    several, alone = charts.roc("a", CURVES), charts.roc("a", {TEN[0]: CURVES[TEN[0]]})
    assert several.svg.count("&lt;$x_1$&gt;") == 10
    assert "&lt;$x_1$" not in several.inline + alone.svg
    assert (several.legend_pt > 50, alone.legend_pt) == (True, pytest.approx(0))
    assert several.inline.split(">")[0].split("aria")[0] == alone.inline.split(">")[0].split("aria")[0], "one size"
    assert {f'data-series="{number}"' for number in range(10)} == set(re.findall(r'data-series="\d+"', several.inline))


def test_colours_are_those_of_the_page() -> None:
    style = Path(mirror_pl.__file__).with_name("reports").joinpath("page/report.css").read_text().split("@media")[0]
    for number, colour in enumerate(charts.COLOURS):
        assert f"--s{number}: {colour};" in style
    assert 'stroke="var(--s1)"' in charts.roc("a", CURVES).inline
    assert charts.roc("a", CURVES).inline.count("stroke-dasharray") > charts.roc("a", {TEN[0]: CURVES[TEN[0]]}).inline.count(
        "stroke-dasharray"
    ), "the ninth detector has the first one's colour, and dashes"


def test_a_bin_of_few_images_is_faint_and_an_empty_one_is_not_drawn() -> None:
    chart = charts.reliability("r", TEN[0], DIAGRAM, "Reliability")
    rows = list(csv.DictReader(chart.csv.splitlines()))
    assert [(int(row["images"]), float(row["share_of_fakes"])) for row in rows] == [(40, 0.0), (3, 1.0)]
    assert "nan" not in chart.csv + chart.svg
    groups = re.findall(r'<g id="series-0-(\d)-interval">(.*?)</g>', chart.svg, re.DOTALL)
    assert [("opacity" in drawn) for _, drawn in groups] == [False, True]
    empty = charts.reliability("r", TEN[0], reliability(np.array([], np.int8), np.array([], np.float32)), "x")
    assert "series-0" not in empty.svg


def test_the_numbers_are_beside_the_picture() -> None:
    reals, fakes = np.zeros(40, np.int64), np.arange(40)
    rows = list(csv.DictReader(charts.histogram("h", TEN[0], reals, fakes).csv.splitlines()))
    assert [int(row["fakes"]) for row in rows] == fakes.tolist()
    assert (float(rows[0]["from"]), float(rows[-1]["to"])) == (0, 1)
    roc = list(csv.DictReader(charts.roc("a", CURVES).csv.splitlines()))
    assert len(roc) == 300
    assert float(roc[-1]["true_positive_rate"]) == 1
    levels = list(csv.DictReader(charts.levels("s", [FAMILY]).csv.splitlines()))
    assert [row["bal_acc"] for row in levels] == ["0.9", ""]


def test_what_is_undefined_is_left_out() -> None:
    chart = charts.intervals("i", [("a", TEN[0], Estimate(None)), ("b", TEN[1], Estimate(0.7))])
    assert "series-0" not in chart.svg
    assert "series-1" in chart.svg
    assert charts.histogram("h", TEN[0], np.zeros(40, np.int64), np.zeros(40, np.int64)).svg
