"""Measured beside published."""

from __future__ import annotations

import pytest

from mirror_pl.benchmarks import published_for
from mirror_pl.reports.published_csv import deltas, deltas_csv


def test_one_row_a_source() -> None:
    rows = deltas(published_for("univfd", "mirror/dinov3_l"), measured=0.9)
    assert [(row.source, row.published) for row in rows] == [("readme-2026-04", 0.882), ("project-readme", 0.974)]
    assert [row.difference for row in rows] == pytest.approx([0.018, -0.074])
    assert deltas_csv(rows).splitlines()[0] == "benchmark,detector,source,published,measured,difference"
    assert deltas_csv(rows).splitlines()[1].startswith("univfd,mirror/dinov3_l,readme-2026-04,0.882,0.9,0.018")


def test_nothing_measured_is_not_compared() -> None:
    assert deltas(published_for("univfd", "mirror/dinov3_l"), measured=None) == []
