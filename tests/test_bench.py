"""What the measurements in bench/ print is what they say it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from paired import finished, interval


@pytest.mark.parametrize(
    ("count", "low", "high", "coverage"),
    [(1, 0, 0, 0.0), (5, 0, 4, 1 - 2 / 32), (6, 0, 5, 1 - 2 / 64), (9, 1, 7, 1 - 2 * 10 / 512), (20, 5, 14, 0.9586)],
)
def test_intervals_are_those_of_order_statistics(count: int, low: int, high: int, coverage: float) -> None:
    """Of 20 values the 6th and the 15th, as in published tables."""
    assert interval([float(value) for value in reversed(range(count))]) == pytest.approx((low, high, coverage), abs=1e-4)


def test_ratios_and_shares() -> None:
    def row(name: str, unit: str, values: list[float], base: str = "", possible: float | None = None) -> dict[str, object]:
        return {
            "measurement": "m",
            "part": "p",
            "name": name,
            "unit": unit,
            "values": values,
            "base": base,
            "possible": possible,
        }

    rate, other, seconds, alone = finished(
        [
            row("a", "images/s", [2.0, 4.0, 6.0], "b", 16.0),
            row("b", "images/s", [1.0, 8.0, 2.0], "b"),
            row("a", "s", [2.0, 2.0, 2.0], "none of that name", 0.5),
            row("b", "s", [2.0, 8.0, 2.0]),
        ]
    )
    assert (rate["median"], rate["ratio"], rate["ratio_interval"], rate["share"]) == (4.0, 2.0, (0.5, 3.0), 0.25)
    assert (other["ratio"], other["share"]) == (1.0, None)
    assert (seconds["ratio"], seconds["share"]) == (None, 0.25), "of seconds, less is better"
    assert alone["repeats"] == 3
