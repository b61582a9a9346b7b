"""Two commits against each other: the same measurements, by this checkout's bench/, on the code of either in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import paired


def compare(base: str, names: list[str], rounds: int, settings: dict[str, Any]) -> None:
    """Print, for each row, the ratio of medians of this checkout's code to a commit's, with its interval.

    Each round starts a fresh process for each side, in changing order. The interval is that of the median of the ratios of
    each round, by order statistics (`paired.interval`); six rounds are the fewest for one of 95 %.

    Args:
        base: A commit.
        names: Measurements.
        rounds: Of each.
        settings: Of the measurements.
    """
    root = paired.HERE.parent
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        subprocess.run(["git", "-C", root, "worktree", "add", "--quiet", "--detach", tree, base], check=True)
        try:
            sides = {base: tree / "src", "this checkout": paired.SRC}
            found: dict[tuple[str, ...], dict[str, list[float]]] = {}
            lost: dict[str, str] = {}
            for round_ in range(rounds):
                for side in list(sides) if round_ % 2 else list(sides)[::-1]:
                    for name in names:
                        print(f"round {round_ + 1} of {rounds}: {name}, {side}", file=sys.stderr, flush=True)
                        for said in paired.run(name, settings, sides[side]):
                            if "row" in said:
                                row = said["row"]
                                key = (name, row["part"], row["name"], row["unit"])
                                medians = found.setdefault(key, {one: [] for one in sides})
                                medians[side].append(statistics.median(row["values"]))
                            elif "machine" not in said:
                                lost[f"{name}, {side}"] = ": ".join(*said.items())
        finally:
            subprocess.run(["git", "-C", root, "worktree", "remove", "--force", tree], check=True)
    print(f"\nthis checkout / {base}, {rounds} rounds; interval of the median ratio, by order statistics")
    print(f"{'':<46}{base[:12]:>12}{'this':>12}  {'unit':<9}{'ratio':>7}{'interval':>18}")
    heading = ()
    for key, medians in found.items():
        if heading != (heading := key[:2]):
            print(": ".join(filter(None, heading)))
        title = f"  {key[2][:43]}"
        before, after = medians.values()
        if len(before) != rounds or len(after) != rounds or not all(before):
            counts = ", ".join(f"{side} {len(values)} of {rounds}" for side, values in medians.items())
            print(f"{title:<46}not compared: rounds with it: {counts}")
            continue
        low, high, coverage = paired.interval([new / old for new, old in zip(after, before, strict=True)])
        middle, other = statistics.median(after), statistics.median(before)
        spread = f"{low:.3f} to {high:.3f}"
        told = "" if coverage >= 0.95 and (low > 1 or high < 1) else "  cannot be told from 1"
        cells = f"{paired.number(other):>12}{paired.number(middle):>12}  {key[3]:<9}{middle / other:>7.3f}{spread:>18}"
        print(f"{title:<46}{cells}{told}")
    print(f"coverage of the intervals: {100 * paired.interval([0.0] * rounds)[2]:.1f} %")
    for what, why in lost.items():
        print(f"not measured: {what}: {why}")
