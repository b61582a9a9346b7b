"""The default evaluation beside two busy loops, against the same on quiet cores: ratio of medians of alternating runs.

``python bench/neighbours.py [RUNS]``; set GOMP_SPINCOUNT=300000 to see libgomp's own default.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOP = [sys.executable, "-c", "while True: pass"]


def evaluate(neighbours: int) -> float:
    """Return the seconds that the default evaluation takes beside so many busy loops."""
    loops = [subprocess.Popen(LOOP) for _ in range(neighbours)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "mirror_pl.eval", f"output_dir={Path(folder, 'run')}"]
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            return time.perf_counter() - began
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Print each run, the medians and their ratio."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[int, list[float]] = {0: [], 2: []}
    for _ in range(runs):
        for neighbours, seconds in found.items():
            seconds.append(evaluate(neighbours))
            print(f"{neighbours} neighbours: {seconds[-1]:.1f} s", flush=True)
    quiet, busy = (statistics.median(seconds) for seconds in found.values())
    print(f"medians of {runs}: quiet {quiet:.1f} s, beside two {busy:.1f} s, ratio {busy / quiet:.2f}")


if __name__ == "__main__":
    main()
