"""Batches that do not fit: split, tried again, no image lost, and no other error hidden."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
from golden_set import SMALL
from torch import Tensor

from mirror_pl.callbacks import ScoreKeeper
from mirror_pl.data import BenchmarkDataModule
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import ConfigError
from mirror_pl.images import PreprocessSpec
from mirror_pl.modules import DetectorModule

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    ),
    MemoryError(),
]


class Greedy(Detector):
    """Takes `most` images at a time; an image's logit is the mean of its pixels, less a half."""

    def __init__(self, most: int, error: BaseException) -> None:
        super().__init__(PreprocessSpec())
        self.most, self.error = most, error
        self.sizes: list[int] = []

    def score(self, pixels: Tensor) -> Verdict:
        self.sizes.append(len(pixels))
        if len(pixels) > self.most:
            raise self.error
        logit = pixels.mean(dim=(1, 2, 3)) - 0.5
        return Verdict(logit, logit.sigmoid(), {})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_batch_is_split_until_it_fits(error: BaseException) -> None:
    detector = Greedy(3, error)
    scorer = SplittingScorer(detector)
    pixels = torch.rand(11, 3, 4, 4)
    with pytest.warns(UserWarning, match="images at a time do not fit into memory; going on with"):
        logit, p_fake, _ = scorer(pixels)
    expected = detector.score(pixels[:0])[0].new_tensor([float(image.mean() - 0.5) for image in pixels])
    torch.testing.assert_close(logit, expected)
    torch.testing.assert_close(p_fake, expected.sigmoid())
    assert scorer.most_together == 3
    detector.sizes.clear()
    scorer(torch.rand(7, 3, 4, 4))
    assert detector.sizes == [3, 3, 1], "later batches are not tried whole again"


def test_batches_of_a_compiled_detector_have_one_size() -> None:
    detector = Greedy(6, RuntimeError("out of memory"))
    scorer = SplittingScorer(detector, one_size=True)
    first, last = torch.rand(5, 3, 4, 4), torch.rand(2, 3, 4, 4)
    scorer(first)
    logit, p_fake, _ = scorer(last)
    assert detector.sizes == [5, 5]
    torch.testing.assert_close(logit, last.mean(dim=(1, 2, 3)) - 0.5)
    torch.testing.assert_close(p_fake, logit.sigmoid())
    with pytest.warns(UserWarning, match="do not fit"):
        scorer(torch.rand(8, 3, 4, 4))
    detector.sizes.clear()
    scorer(last)
    assert detector.sizes == [4], "what does not fit is not what others are filled up to"


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="do not fit"),
        pytest.raises(ConfigError, match="out of memory with a single image"),
    ):
        SplittingScorer(Greedy(0, ERRORS[0]))(torch.rand(4, 3, 4, 4))


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        SplittingScorer(Greedy(0, RuntimeError("shape mismatch")))(torch.rand(4, 3, 4, 4))


def test_an_evaluation_loses_nothing() -> None:
    def scores(detector: Detector) -> tuple[np.ndarray, int | None]:
        data, keeper = BenchmarkDataModule("wildrf", SMALL.data_root, num_workers=0), ScoreKeeper()
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[keeper],
        )
        trainer.test(DetectorModule(detector), data)
        return keeper.predictions.logits, keeper.predictions.most_together

    whole, together = scores(Greedy(10**6, ERRORS[0]))
    assert together is None
    with pytest.warns(UserWarning, match="16 images at a time do not fit"):
        split, together = scores(Greedy(2, ERRORS[0]))
    assert together == 2
    np.testing.assert_allclose(split, whole, atol=1e-6)
    assert np.isfinite(split).all()


def test_a_backbone_that_cannot_be_compiled_says_so() -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    data = BenchmarkDataModule("wildrf", SMALL.data_root, num_workers=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ConfigError, match=r"cannot be compiled .*; use compile=false"):
        trainer.test(DetectorModule(Greedy(0, InvalidCxxCompiler())), data)
