"""Equal files are scored once, and each has its row."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from flat_detector import FlatDetector
from PIL import Image
from torch import Tensor

from mirror_pl.detectors import CropPolicy, Verdict
from mirror_pl.prediction import expand, score
from mirror_pl.prediction.duplicates import Duplicates


class CountingDetector(FlatDetector):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def score(self, pixels: Tensor) -> Verdict:
        self.seen += len(pixels)
        return super().score(pixels)


def write_pictures() -> None:
    """Ten files, of which six are different; and two that are equal and no pictures."""
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(f"in/{number}.png")
    for number, of in enumerate((1, 1, 4)):
        shutil.copy(f"in/{of}.png", f"in/{6 + number}.png")
    shutil.copy("in/0.png", "in/9.bmp")  # a recipe may go by the suffix: these are not equal
    Path("in/a.png").write_text("no picture")
    shutil.copy("in/a.png", "in/b.png")


@pytest.mark.parametrize("batch_size", [1, 4, 12])
@pytest.mark.parametrize("crops", ["center", "five"])
def test_equal_files_have_equal_rows_and_cost_one_scoring(batch_size: int, crops: str) -> None:
    write_pictures()
    policy, detector, duplicates = CropPolicy(crops), CountingDetector(), Duplicates()
    given = {"policy": policy, "batch_size": batch_size, "num_workers": 0}
    found = list(score(expand(["in"]), detector, duplicates=duplicates, **given))
    assert detector.seen == 7 * policy.count
    assert duplicates.count == 3
    for (item, prediction), (same, whole) in zip(found, score(expand(["in"]), FlatDetector(), **given), strict=True):
        assert item == same
        assert (prediction.status, prediction.reason, prediction.size) == (whole.status, whole.reason, whole.size)
        assert prediction.logit == pytest.approx(whole.logit, abs=1e-6), "float rounding by what else was in its batch"
        assert [crop.crop for crop in prediction.crops] == [crop.crop for crop in whole.crops]
        assert prediction.evidence == pytest.approx(whole.evidence, abs=1e-6)
    by_name = {item.path: prediction for item, prediction in found}
    assert by_name["in/1.png"] == by_name["in/6.png"] == by_name["in/7.png"]


def test_what_was_said_outlives_the_process() -> None:
    write_pictures()
    first = list(score(expand(["in"]), FlatDetector(), duplicates=Duplicates(Path("seen"))))
    detector, again = CountingDetector(), Duplicates(Path("seen"))
    assert list(score(expand(["in"]), detector, duplicates=again, num_workers=2)) == first
    assert detector.seen == 0
    assert again.count == 10
