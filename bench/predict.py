"""One picture, from a file to a prediction: what predict adds to the model, against plain Pillow; one process, warm, CPU.

The picture has 2 megapixels, as JPEG and as PNG, which the recipe compresses as JPEG and decodes again. The detector is a
tiny one with random weights. Time outside the model is that of the whole call less that of the detector inside it; plain
Pillow decodes, resizes, crops and aligns. Both must give the same pixels.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from decode import only_decoded, plain_pillow, smooth_noise
from detector import random_detector
from mirror_pl.images.pictures import prepare
from mirror_pl.prediction import Item, row_of, score
from mirror_pl.prediction.formats import as_line
from paired import Row

SIZE = (1632, 1224)


def rows(repeats: int = 50) -> Iterator[Row]:
    """Milliseconds of the whole call, of what is outside of the model in it, and of plain Pillow, taken in turn."""
    detector = random_detector("tiny", torch.device("cpu"))
    inside = began = 0.0

    def before(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: object) -> None:
        nonlocal inside
        inside = time.perf_counter() - began

    detector.register_forward_pre_hook(before)
    detector.register_forward_hook(after)
    with tempfile.TemporaryDirectory() as name:
        for suffix, how in ((".jpg", {"quality": 90}), (".png", {})):
            path = Path(name) / f"picture{suffix}"
            smooth_noise(np.random.default_rng(0), *SIZE).save(path, **how)
            pixels = prepare(path, detector.spec).pixels
            assert pixels is not None
            assert np.array_equal(pixels[0], plain_pillow(path))
            ms: dict[str, list[float]] = {"only decoded": [], "plain Pillow": [], "outside the model": [], "whole": []}
            for round_ in range(repeats + 5):
                times = [time.perf_counter()]
                only_decoded(path)
                times.append(time.perf_counter())
                plain_pillow(path)
                times.append(time.perf_counter())
                ((item, prediction),) = score([Item.of_file(str(path))], detector)
                as_line(row_of(item, prediction))
                times.append(time.perf_counter())
                decoded, plain, whole = (after - before for before, after in pairwise(times))
                if round_ >= 5:
                    for values, value in zip(ms.values(), (decoded, plain, whole - inside, whole), strict=True):
                        values.append(1e3 * value)
            least = float(np.median(ms["only decoded"]))
            part = f"{suffix}, {SIZE[0]} x {SIZE[1]}"
            for key, values in ms.items():
                yield Row(key, "ms", values, "plain Pillow", least, "plain Pillow that only decodes", part)
