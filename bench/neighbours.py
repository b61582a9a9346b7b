"""The default evaluation beside two busy loops, against the same on quiet cores.

Set GOMP_SPINCOUNT=300000 for libgomp's default. Needs the commands of mirror_pl, with Hydra.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hydra  # noqa: F401 - the command needs it

from paired import Row, command

LOOP = [sys.executable, "-c", "while True: pass"]


def evaluate(neighbours: int) -> float:
    """Return the seconds that the default evaluation takes beside so many busy loops."""
    loops = [subprocess.Popen(LOOP) for _ in range(neighbours)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return command("eval", f"output_dir={folder}/run", cwd=Path(folder))[0]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rows(repeats: int = 5) -> Iterator[Row]:
    """Seconds, alternating."""
    found: dict[int, list[float]] = {0: [], 2: []}
    for _ in range(repeats):
        for neighbours, seconds in found.items():
            seconds.append(evaluate(neighbours))
    for neighbours, seconds in found.items():
        yield Row(f"beside {neighbours} loops", "s", seconds, base="beside 0 loops")
