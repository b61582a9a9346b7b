"""One picture, from a file to a prediction: what predict adds to the model, against plain Pillow; one process, warm, CPU.

The picture has 2 megapixels, as JPEG and as PNG, which the recipe compresses as JPEG and decodes again. The detector is a
tiny one with random weights. Time outside the model is that of the whole call less that of the detector inside it; plain
Pillow decodes, resizes, crops and aligns. Both must give the same pixels.

    python bench/predict.py [--repeats 50]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from decode import plain_pillow, smooth_noise
from detector import random_detector
from paired import describe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.detectors import MirrorDetector
from mirror_pl.images.pictures import prepare
from mirror_pl.prediction import Item, row_of, score
from mirror_pl.prediction.formats import as_line

SIZE = (1632, 1224)
TARGET = 1.3


def measure(detector: MirrorDetector, path: Path, repeats: int) -> dict[str, float]:
    """Median seconds of the whole call, of what is outside of the model in it, and of plain Pillow, taken in turn."""
    pixels = prepare(path, detector.spec).pixels
    assert pixels is not None
    assert np.array_equal(pixels[0], plain_pillow(path))
    inside = 0.0
    forward = detector.forward

    def timed(*arguments: torch.Tensor) -> object:
        nonlocal inside
        start = time.perf_counter()
        verdict = forward(*arguments)
        inside = time.perf_counter() - start
        return verdict

    detector.forward = timed  # type: ignore[method-assign, assignment]
    seconds: dict[str, list[float]] = {"plain Pillow": [], "outside the model": [], "whole": []}
    try:
        for round_ in range(repeats + 5):
            start = time.perf_counter()
            plain_pillow(path)
            plain = time.perf_counter() - start
            start = time.perf_counter()
            ((item, prediction),) = score([Item.of_file(str(path))], detector)
            as_line(row_of(item, prediction))
            whole = time.perf_counter() - start
            if round_ >= 5:
                for name, value in zip(seconds, (plain, whole - inside, whole), strict=True):
                    seconds[name].append(value)
    finally:
        detector.forward = forward  # type: ignore[method-assign]
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    device = torch.device("cpu")
    detector = random_detector("tiny", device)
    print(f"{describe(device)}; {SIZE[0]} x {SIZE[1]}; medians of {options.repeats}; target at most {TARGET}\n")
    print(f"{'':<8}{'plain Pillow':>14}{'outside the model':>19}{'ratio':>7}{'whole':>10}")
    with tempfile.TemporaryDirectory() as name:
        for suffix, how in ((".jpg", {"quality": 90}), (".png", {})):
            path = Path(name) / f"picture{suffix}"
            smooth_noise(np.random.default_rng(0), *SIZE).save(path, **how)
            found = measure(detector, path, options.repeats)
            plain, outside, whole = found.values()
            ratio = outside / plain
            print(f"{suffix:<8}{plain * 1e3:>11.1f} ms{outside * 1e3:>16.1f} ms{ratio:>7.2f}{whole * 1e3:>7.1f} ms")


if __name__ == "__main__":
    main()
