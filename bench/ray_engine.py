"""What Ray costs: shards of tiny pictures, a detector that is all but nothing, on one machine, with Ray and without.

On one machine two processes decode; with Ray an actor per core has one that decodes. Seconds are of a whole run but for the
start of the cluster: the start of the actors is in them, so that more shards show the rate. Needs mirror_pl[ray].

    python bench/ray_engine.py [--repeats 5] [--shards 40] [--members 250]
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from paired import describe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

import ray_driver

from mirror_pl.prediction.on_ray import connected


def write_shards(folder: Path, shards: int, members: int) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(shards):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as tar:
            for member in range(members):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 100, (16, 16, 3), np.uint8)).save(buffer, "PNG")
                info = tarfile.TarInfo(f"{member:05d}.png")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)
    return [str(folder / f"{number:04d}.tar") for number in range(shards)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--members", type=int, default=250)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # Ray's processes run without being installed too
    pictures = options.shards * options.members
    seconds: dict[str, list[float]] = {"one machine": [], "Ray": []}
    with tempfile.TemporaryDirectory() as name, connected(None):
        shards = write_shards(Path(name), options.shards, options.members)
        for round_ in range(options.repeats + 1):
            for way, address in (("one machine", "none"), ("Ray", None)):
                taken = ray_driver.main(address, Path(name) / f"{way[:3]}{round_}.jsonl", 0, shards, workers=2)
                if round_:
                    seconds[way].append(taken)
    print(
        f"{describe(torch.device('cpu'))}; {pictures:,} pictures in {options.shards} shards; medians of {options.repeats}\n"
    )
    plain = statistics.median(seconds["one machine"])
    for way, values in seconds.items():
        middle = statistics.median(values)
        rate, span = pictures / middle, f"{min(values):.1f} to {max(values):.1f} s"
        print(f"{way:<12}{middle:8.1f} s{rate:9.0f} images/s{middle / plain:7.2f}   {span}")


if __name__ == "__main__":
    main()
