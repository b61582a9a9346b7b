"""What does a suite cost, against as many separate evaluations? In one process, one after the other, without workers.

Three times are measured on the same pictures and in turns: of the suite as it is run (decode once, all conditions,
score), of each condition by itself (decode, perturb, prepare, score), and of what a suite cannot do without: perturbing,
preparing and scoring, decoded pictures in hand. The bound asked for is 1.15 of the last. ARNIQA has 24 perturbations of 5
levels.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detector import random_detector
from mirror_pl.detectors import Detector
from mirror_pl.files import read_yaml
from mirror_pl.images import Condition, prepare, prepare_each
from mirror_pl.images.decode import decode
from mirror_pl.images.suite import parse_suite
from mirror_pl.locate import config_dir, miniature_dir
from paired import Row, quick


def photographs(folder: Path, count: int, side: int) -> list[Path]:
    """JPEG files made of the miniature's photographs."""
    sources = sorted((miniature_dir() / "photographs").glob("*.jpg"))
    paths = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        Image.open(sources[number % len(sources)]).convert("RGB").resize((side, side)).save(path, quality=92)
        paths.append(path)
    return paths


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


@quick(suite="techjam", images=1, side=64, backbone="tiny")
def rows(
    suite: str = "arniqa", images: int = 4, side: int = 512, backbone: str = "dinov3_b", repeats: int = 3
) -> Iterator[Row]:
    """Seconds of each way."""
    found = parse_suite(read_yaml(config_dir() / "suite" / f"{suite}.yaml"))
    conditions = found.conditions[: -len(list(found.families.values())[-1])]  # without those of format alignment
    detector = random_detector(backbone, torch.device("cpu"))
    times: dict[str, list[float]] = {"suite": [], "separate": [], "needed": []}

    def seconds_of(work: Callable[[], None]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), images, side)
        as_a_suite(detector, paths[:1], conditions)  # warm
        for _ in range(repeats):
            times["suite"].append(seconds_of(lambda: as_a_suite(detector, paths, conditions)))
            times["separate"].append(seconds_of(lambda: each_by_itself(detector, paths, conditions)))
            times["needed"].append(without_decoding(detector, paths, conditions))
    part = f"{found.title}: {len(conditions)} conditions, {images} images of {side} px, {backbone}"
    least = statistics.median(times["needed"])
    for name, values in times.items():
        yield Row(name, "s", values, "needed", least, "what is needed", part)
