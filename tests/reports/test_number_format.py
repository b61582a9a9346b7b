"""Figures and names as people read them."""

from __future__ import annotations

import pytest

from mirror_pl.reports.leaderboard import Benchmark, by_number, in_order
from mirror_pl.reports.leaderboard_markup import _md, _tex
from mirror_pl.reports.number_format import level_name, p_value, percent, signed, with_interval
from mirror_pl.reports.published_csv import Delta
from mirror_pl.scores.bootstrap import Estimate


def test_undefined_is_a_dash() -> None:
    assert [percent(None), signed(None), p_value(None), with_interval(Estimate(None))] == ["-"] * 4


def test_figures() -> None:
    assert with_interval(Estimate(0.9562, 0.9, 0.97123)) == "95.6 [90.0, 97.1]"
    assert (signed(-0.0123), signed(0.05, 2)) == ("-1.2", "+5.00")
    assert (p_value(0.00001), p_value(0.012345), p_value(1.0)) == ("<0.0001", "0.012", "1")
    assert (level_name(0.95), level_name(0.999)) == ("95 %", "99.9 %")


@pytest.mark.parametrize(
    ("name", "tex"),
    [
        ("a_b & 50%", r"a\_b \& 50\%"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x^2~#\n\\end", r"\$x\textasciicircum{}2\textasciitilde{}\# \textbackslash{}end"),
    ],
)
def test_latex_is_escaped(name: str, tex: str) -> None:
    assert _tex(name) == tex


def test_markdown_is_escaped() -> None:
    assert _md("a|b\n# <b>[x](y) `z` *s*") == r"a\|b \# &lt;b&gt;\[x\](y) \`z\` \*s\*"
    assert _md("mirror/tiny (fake-bank)") == "mirror/tiny (fake-bank)"


def test_the_published_order() -> None:
    names = [
        ("x", "mine"),
        ("wildrf", "in-the-wild"),
        ("b", "other"),
        ("univfd", "standard"),
        ("a", "other"),
        ("genimage", "standard"),
    ]
    found = in_order([Benchmark(name, name, group) for name, group in [*names, names[0]]])
    assert [benchmark.name for benchmark in found] == ["genimage", "univfd", "wildrf", "a", "b", "x"]


def test_a_number_printed_twice_is_one() -> None:
    deltas = [
        Delta("b", "d", source, published, 0.9, 0.9 - published)
        for source, published in (("one", 0.8), ("two", 0.7), ("three", 0.8))
    ]
    assert [(delta.published, sources) for delta, sources in by_number(deltas)] == [(0.8, ["one", "three"]), (0.7, ["two"])]
