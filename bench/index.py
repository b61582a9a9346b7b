"""Indexing 200,000 files: against a plain os.walk that only lists names, and again from the kept listing.

python bench/index.py [--files 200000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.benchmarks import BenchmarkIndex, Layout, Manifest, index_benchmark

SUBSETS = tuple(f"subset{i}" for i in range(10))
MANIFEST = Manifest(
    name="x", title="x", group="other", published_key="x", source="-", licence="-", how_to_get="-", citation="-",
    layouts={"published": Layout(("x",), {name: (name,) for name in SUBSETS})},
)  # fmt: skip


def make_tree(root: Path, files: int) -> None:
    """Files of 10 subsets, both classes, two folders each: 5,000 in a folder for 200,000."""
    folders = [root / "x" / s / label / c for s in SUBSETS for label in ("0_real", "1_fake") for c in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        for i in range(files // len(folders)):
            os.close(os.open(folder / f"image_{i:06d}.png", os.O_CREAT | os.O_WRONLY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_tree(root / "data", options.files)
        time.sleep(3)  # a folder that has just changed is not trusted

        def index(cache: Path | None) -> BenchmarkIndex:
            return index_benchmark(MANIFEST, root / "data", {".png"}, cache=cache)

        ways: dict[str, Callable[[], int]] = {
            "os.walk, names only": lambda: sum(len(names) for _, _, names in os.walk(root / "data")),
            "index, with sizes and times": lambda: len(index(None)),
            "index, from the kept listing": lambda: len(index(root / "cache")),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats + 1):  # the first round warms the file cache and writes the listing
            for way, run in ways.items():
                start = time.perf_counter()
                count = run()
                seconds[way].append(time.perf_counter() - start)
                assert count == options.files // 40 * 40
    medians = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    walk_s, index_s, kept_s = medians.values()
    print(f"{platform.processor() or platform.machine()}, {options.files:,} files, medians of {options.repeats}\n")
    for way, value in medians.items():
        print(f"{way:<32}{value:>8.3f} s")
    print(f"\nindex / os.walk: {index_s / walk_s:.2f};  index / kept listing: {index_s / kept_s:.1f}")


if __name__ == "__main__":
    main()
