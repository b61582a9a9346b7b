"""Evaluation: every image of a benchmark through a detector, by Lightning's `trainer.test`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from mirror_pl.detectors.contract import Detector
from mirror_pl.experiment.batch import Batch, Flaw
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.detector_module import DetectorModule
from mirror_pl.scores import Status


@dataclass(frozen=True)
class Predictions:
    """What a detector says of every sample of an index, whose order the columns share.

    Attributes:
        logits: ``(S,)`` float32; NaN where undecodable.
        p_fake: ``(S,)`` float32; NaN where undecodable.
        statuses: ``(S,)`` int8 of `Status`.
        flaws: Images that were not read as they should have been, by id.
    """

    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    statuses: NDArray[np.int8]
    flaws: list[Flaw]


def evaluate(detector: Detector, data: BenchmarkDataModule, trainer: L.Trainer) -> Predictions:
    """Score a benchmark.

    Args:
        detector: Any detector; its recipe preprocesses the images.
        data: The benchmark.
        trainer: Decides device, precision and number of processes. With several, every one returns all predictions.

    Raises:
        RuntimeError: If a sample came back twice or not at all, which would be a defect of ours.
    """
    data.use_recipe(detector.spec)
    collector = _Collector()
    trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    try:
        trainer.test(DetectorModule(detector, data.manifest.subsets), datamodule=data, verbose=False)
    finally:
        trainer.callbacks.remove(collector)  # type: ignore[attr-defined]
    return _assemble(collector.gathered, len(data.index))


@dataclass
class _Share:
    """What one process has scored."""

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    flaws: list[Flaw]


class _Collector(L.Callback):
    """Keeps the scores of each batch on the device, and gathers all processes' at the end."""

    def __init__(self) -> None:
        self.ids: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []
        self.flaws: list[Flaw] = []
        self.gathered: list[_Share] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Left on the device: fetching them now would make the host wait for every batch.
        self.ids.append(batch.ids)
        self.scores.append(torch.stack([outputs["logit"], outputs["p_fake"]]))
        self.flaws.extend(batch.flaws)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ids = torch.cat(self.ids).cpu().numpy() if self.ids else np.empty(0, np.int64)
        scores = torch.cat(self.scores, dim=1).cpu().numpy() if self.scores else np.empty((2, 0), np.float32)
        share = _Share(ids, scores[0], scores[1], self.flaws)
        self.gathered = [share]
        if trainer.world_size > 1:
            self.gathered = [share] * trainer.world_size
            torch.distributed.all_gather_object(self.gathered, share)


def _assemble(shares: list[_Share], size: int) -> Predictions:
    """Put the processes' shares into the index's order, and check that every sample is there once."""
    logits, p_fake = np.full((2, size), np.nan, np.float32)
    statuses = np.full(size, Status.OK, np.int8)
    seen = np.zeros(size, np.int64)
    flaws = sorted(flaw for share in shares for flaw in share.flaws)
    for share in shares:
        logits[share.ids], p_fake[share.ids] = share.logits, share.p_fake
        np.add.at(seen, share.ids, 1)
    for flaw in flaws:
        statuses[flaw.id] = flaw.status
        seen[flaw.id] += flaw.status == Status.UNDECODABLE
    if not (seen == 1).all():
        raise RuntimeError(
            f"evaluation: of {size} samples {int((seen == 0).sum())} came back without a verdict and "
            f"{int((seen > 1).sum())} more than once; nothing was written"
        )
    return Predictions(logits, p_fake, statuses, flaws)
