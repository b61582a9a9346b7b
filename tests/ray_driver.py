"""Score shards on a Ray cluster with a detector that is all but nothing: what the tests of `prediction.on_ray` start and kill.

    python tests/ray_driver.py ADDRESS OUTPUT PAUSE_S SHARD...

With the address ``none``, on this machine without Ray. A white picture ends the process that scores it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from flat_detector import FlatDetector
from torch import Tensor

from mirror_pl.detectors import CropPolicy, Detector, Verdict
from mirror_pl.prediction import Limits, Output, entries, score
from mirror_pl.prediction.on_ray import Work, connected, packed, room_for, score_on_ray

FACTS = {"detector": "flat"}
BATCH = 16
POISON = 0.99
"""A picture with a brighter point ends its process."""


class PausingDetector(FlatDetector):
    """Waits before each batch, so that there is time to kill it."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s = pause_s

    def score(self, pixels: Tensor) -> Verdict:
        time.sleep(self.pause_s)
        if pixels.max() > POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(pixels)


def load(pause_s: float) -> Detector:
    return PausingDetector(pause_s).eval()


def main(address: str | None, output: Path, pause_s: float, shards: list[str], workers: int = 1) -> float:
    """Score, and return the seconds that it took; `workers` decode, where there is no Ray."""
    file = Output(output, save_every_s=0.5)
    with file.claimed():
        file.check(resume=True)
        if file.finished(FACTS):
            return 0.0
        if address == "none":
            start = time.perf_counter()
            items = file.begin(FACTS, entries(shards), BATCH)
            for item, prediction in score(items, load(pause_s), batch_size=BATCH, num_workers=workers):
                file.add(item, prediction)
        else:
            with connected(address) as there:
                units = [packed(unit, here) for unit, here in file.undone(FACTS, entries(shards), BATCH)]
                work = Work(
                    partial(load, pause_s), file.store, CropPolicy(), BATCH, 1, "32-true", Limits(), False, 0.5, "cpu"
                )
                actors = room_for(None, 1, 0, there)
                start = time.perf_counter()
                for unit, rows, set_aside in score_on_ray(units, work, actors, 1, 0) if units else ():
                    print("unit", unit, rows, set_aside, flush=True)
        seconds = time.perf_counter() - start
        assert file.complete({"depends_on": FACTS})
    print(f"{file.tally.total} rows, {file.resumed} of them before, {seconds:.1f} s")
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
