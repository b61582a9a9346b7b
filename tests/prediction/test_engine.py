"""Items become predictions in batches that follow from the items alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from flat_detector import FlatDetector
from golden_set import SMALL
from PIL import Image
from torch import Tensor

from mirror_pl.detectors import CropPolicy, MirrorDetector, Verdict
from mirror_pl.errors import ConfigError
from mirror_pl.prediction import Item, device_of, expand, pictures_at_once, score, workers_of
from mirror_pl.prediction.engine import Batch


def write_pictures(number: int) -> None:
    Path("in").mkdir()
    rng = np.random.default_rng(0)
    for place in range(number):
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(f"in/{place:03d}.png")


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_order_is_kept_and_nothing_is_lost_or_doubled(workers: int) -> None:
    write_pictures(50)
    Path("in/007.png").write_text("no image")
    Path("in/049.png").write_bytes(b"")
    names = [f"in/{place:03d}.png" for place in range(50)]
    found = list(score(expand(["in"]), FlatDetector(), batch_size=8, num_workers=workers))
    assert [item.path for item, _ in found] == names
    expected = [FlatDetector().predict(name) for name in names]
    for (_, prediction), alone in zip(found, expected, strict=True):
        assert prediction.status == alone.status
        assert prediction.logit == pytest.approx(alone.logit, abs=1e-5)
        assert prediction.crops == alone.crops or prediction.crops[0].logit == pytest.approx(alone.logit, abs=1e-5)


def test_the_golden_scores_with_crops(small_detector: MirrorDetector) -> None:
    names = [str(SMALL.data_root / row["path"]) for row in SMALL.rows()[:6]]
    policy = CropPolicy("five", "topk", "score", 0.5)
    found = list(score(map(Item.of_file, names), small_detector, policy=policy, batch_size=12, num_workers=1))
    expected = small_detector.predict(names, policy=policy, batch_size=12)
    assert [prediction for _, prediction in found] == expected
    assert all(len(prediction.crops) == 5 for prediction in expected)


def test_batches_are_of_items_that_follow_each_other() -> None:
    write_pictures(10)
    seen: list[Batch] = []
    found = list(score(expand(["in"]), FlatDetector(), batch_size=4, on_batch=seen.append))
    assert [len(batch) for batch in seen] == [4, 4, 2]
    assert [(item, prediction) for batch in seen for item, _, prediction in batch] == found
    assert all(
        picture.pixels is not None and picture.pixels.shape == (1, 224, 224, 3) for batch in seen for _, picture, _ in batch
    )


def test_items_are_taken_lazily() -> None:
    write_pictures(1)
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        while True:
            taken += 1
            yield Item.of_file("in/000.png")

    assert len(list(islice(score(endless(), FlatDetector(), batch_size=4, num_workers=2), 8))) == 8
    assert taken < 50


class SmallMemory(FlatDetector):
    """Has room for two crops."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def score(self, pixels: Tensor) -> Verdict:
        if len(pixels) > 2:
            self.refused += 1
            raise torch.OutOfMemoryError("out of memory")
        return super().score(pixels)


def test_what_does_not_fit_is_learnt_once() -> None:
    write_pictures(24)
    detector = SmallMemory()
    with pytest.warns(UserWarning, match="do not fit into memory"):
        found = list(score(expand(["in"]), detector, batch_size=8))
    assert detector.refused == 2, "eight, then four; and no batch after the first is tried whole again"
    for (_, prediction), (_, whole) in zip(found, score(expand(["in"]), FlatDetector(), batch_size=8), strict=True):
        assert prediction.logit == pytest.approx(whole.logit, abs=1e-6)


def test_settings() -> None:
    assert pictures_at_once(16, CropPolicy()) == 16
    assert pictures_at_once(16, CropPolicy("five")) == 3
    assert pictures_at_once(16, CropPolicy("grid5x5")) == 1
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
    for name in ("cuda:77", "gpu"):
        with pytest.raises(ConfigError, match=f"device={name}: "):
            device_of(name)
    assert workers_of(0) == 0
    assert 1 <= workers_of(None) <= 8
    with pytest.raises(ConfigError, match="precision must be"):
        list(score([Item.of_file("x")], FlatDetector(), precision="int8"))
