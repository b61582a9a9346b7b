"""What Ray costs: shards of tiny pictures, a detector that is all but nothing, on one machine, with Ray and without.

On one machine two processes decode; with Ray an actor per core has one that decodes. Seconds are of a whole run but for the
start of the cluster: the start of the actors is in them, so that more shards show the rate. Needs mirror_pl[ray].
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from paired import HERE, Row, quick

sys.path.insert(0, str(HERE.parent / "tests"))


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


@quick(shards=4)
def rows(shards: int = 40, members: int = 250, repeats: int = 5) -> Iterator[Row]:
    """Images/s of a run, alternating."""
    import ray_driver

    from mirror_pl.prediction.on_ray import connected

    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ["PYTHONPATH"]])  # Ray's processes know both too
    ways = {"our own engine": "none", "Ray": None}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name, connected(None):
        files = write_shards(Path(name), shards, members)
        for round_ in range(repeats + 1):
            for way, address in ways.items():
                seconds = ray_driver.main(address, Path(name) / f"{way[:3]}{round_}.jsonl", 0, files, workers=2)
                if round_:
                    rates[way].append(shards * members / seconds)
    for way, values in rates.items():
        yield Row(
            way, "images/s", values, "our own engine", part=f"{shards * members:,} pictures of 16 px in {shards} shards"
        )
