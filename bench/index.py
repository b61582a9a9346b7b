"""Indexing 200,000 files: against a plain os.walk that only lists names, and again from the kept listing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mirror_pl.benchmarks import BenchmarkIndex, Layout, Manifest, index_benchmark
from paired import Row, all_seconds_of, quick

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


def with_stat(folder: Path) -> int:
    """List files with a size and a time of each, as plainly as Python can."""
    return sum(with_stat(Path(one)) if one.is_dir() else bool(one.stat()) for one in os.scandir(folder))


@quick(files=4000)
def rows(files: int = 200_000, repeats: int = 5) -> Iterator[Row]:
    """Seconds of each way."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_tree(root / "data", files)
        time.sleep(3)  # a folder that has just changed is not trusted

        def index(cache: Path | None) -> BenchmarkIndex:
            return index_benchmark(MANIFEST, root / "data", {".png"}, cache=cache)

        names, scan, own, kept = (
            "os.walk, names only",
            "os.scandir with stat",
            "index, with sizes and times",
            "index, from the kept listing",
        )
        ways = {
            names: lambda: sum(len(found) for _, _, found in os.walk(root / "data")),
            scan: lambda: with_stat(root / "data"),
            own: lambda: len(index(None)),
            kept: lambda: len(index(root / "cache")),
        }
        assert {way() for way in ways.values()} == {files // 40 * 40}  # warms the file cache and writes the listing
        seconds = all_seconds_of(ways, repeats, torch.device("cpu"), warm_up=0)
        for way, values in seconds.items():
            least = scan if way == own else names
            possible = sorted(seconds[least])[repeats // 2]
            yield Row(way, "s", values, names, possible, f"{least}" if way in (own, kept) else "", f"{files:,} files")
