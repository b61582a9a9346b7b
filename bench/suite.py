"""What does a suite cost, against as many separate evaluations? In one process, one after the other, without workers.

    python bench/suite.py                          arniqa: 24 perturbations of 5 levels, 20 pictures of 1024 x 1024, dinov3_b
    python bench/suite.py --images 2 --side 64 --suite techjam --backbone tiny      to see that it runs

Three times are measured on the same pictures and in turns, their medians over the rounds taken: of the suite as it is run
(decode once, all conditions, score), of each condition by itself (decode, perturb, prepare, score), and of what a suite
cannot do without: perturbing, preparing and scoring, decoded pictures in hand. The bound asked for is 1.15 of the last.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from mirror_pl.detectors import Detector, DetectorConfig, MirrorDetector
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.images import Condition, prepare, prepare_each
from mirror_pl.images.decode import decode
from mirror_pl.images.suite import parse_suite
from mirror_pl.locate import config_dir, miniature_dir


def photographs(folder: Path, count: int, side: int) -> list[Path]:
    """JPEG files made of the miniature's photographs."""
    sources = sorted((miniature_dir() / "photographs").glob("*.jpg"))
    paths = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        Image.open(sources[number % len(sources)]).convert("RGB").resize((side, side)).save(path, quality=92)
        paths.append(path)
    return paths


def detector_of(backbone: str) -> Detector:
    torch.manual_seed(0)
    return MirrorDetector(DetectorConfig(known_backbone(backbone))).eval()


def score(detector: Detector, pixels: list[np.ndarray], batch: int = 16) -> None:
    together = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        for part in together.split(batch):
            detector(part)


def as_a_suite(detector: Detector, paths: list[Path], conditions: tuple[Condition, ...]) -> None:
    for path in paths:
        found = prepare_each(path, detector.spec, "center", conditions, None, path.name)
        score(detector, [one.pixels for one in found if one.pixels is not None])


def each_by_itself(detector: Detector, paths: list[Path], conditions: tuple[Condition, ...]) -> None:
    for condition in conditions:
        for start in range(0, len(paths), 16):
            found = [
                prepare(path, detector.spec, "center", None, condition, path.name) for path in paths[start : start + 16]
            ]
            score(detector, [one.pixels for one in found if one.pixels is not None])


def without_decoding(detector: Detector, paths: list[Path], conditions: tuple[Condition, ...]) -> float:
    """Return the seconds of all but decoding."""
    seconds = 0.0
    for path in paths:
        image = decode(path).image
        begin = time.perf_counter()
        found = prepare_each(image, detector.spec, "center", conditions, ".jpg", path.name)
        score(detector, [one.pixels for one in found if one.pixels is not None])
        seconds += time.perf_counter() - begin
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="arniqa")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--backbone", default="dinov3_b")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    suite = parse_suite(yaml.safe_load((config_dir() / "suite" / f"{options.suite}.yaml").read_text()))
    conditions = suite.conditions[: -len(list(suite.families.values())[-1])]  # without those of format alignment
    detector = detector_of(options.backbone)
    times: dict[str, list[float]] = {"suite": [], "separate": [], "needed": []}

    def timed(work: Callable[[], None]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), options.images, options.side)
        as_a_suite(detector, paths[:1], conditions)  # warm
        for _ in range(options.repeats):
            times["suite"].append(timed(lambda: as_a_suite(detector, paths, conditions)))
            times["separate"].append(timed(lambda: each_by_itself(detector, paths, conditions)))
            times["needed"].append(without_decoding(detector, paths, conditions))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{suite.title}: {len(conditions)} conditions, {options.images} images of {options.side} px, {options.backbone}")
    for name, value in medians.items():
        print(f"  {name:<9} {value:8.1f} s   ({', '.join(f'{seconds:.1f}' for seconds in times[name])})")
    print(f"  suite / needed   {medians['suite'] / medians['needed']:.3f} (asked: at most 1.15)")
    print(f"  suite / separate {medians['suite'] / medians['separate']:.3f}")


if __name__ == "__main__":
    main()
