"""What the measurements in bench/ print is what they say it is."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from paired import all_seconds_of, finished, interval


@pytest.mark.parametrize(
    ("count", "low", "high", "coverage"),
    [(1, 0, 0, 0.0), (5, 0, 4, 1 - 2 / 32), (6, 0, 5, 1 - 2 / 64), (9, 1, 7, 1 - 2 * 10 / 512), (20, 5, 14, 0.9586)],
)
def test_intervals_are_those_of_order_statistics(count: int, low: int, high: int, coverage: float) -> None:
    """Of 20 values the 6th and the 15th, as in published tables."""
    assert interval([float(value) for value in reversed(range(count))]) == pytest.approx((low, high, coverage), abs=1e-4)


def test_ways_are_taken_there_and_back_and_the_fast_ones_again_and_again() -> None:
    calls: list[str] = []

    def way(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    ways = {"fast": lambda: way("fast", 0.002), "slow": lambda: way("slow", 0.02)}
    seconds = all_seconds_of(ways, 2, torch.device("cpu"), least_s=0.02)
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert 0.002 <= min(seconds["fast"]) < 0.02, "seconds are of one call"
    blocks = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert blocks == ["fast", "slow", "fast", "slow"], "the warm-up, there; back; and there again"
    assert calls.count("fast") > 2 * calls.count("slow")


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
