"""Evaluation: every image of a benchmark through a detector, by Lightning's `trainer.test`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from mirror_pl.detectors.contract import Detector
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.experiment.batch import Batch, Flaw
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.detector_module import DetectorModule
from mirror_pl.scores import Status


@dataclass(frozen=True)
class Predictions:
    """What a detector says of every sample of an index, whose order the columns share.

    Attributes:
        logits: ``(S,)`` float32; not finite where there is no score.
        p_fake: ``(S,)`` float32; likewise.
        statuses: ``(S,)`` int8 of `Status`.
        flaws: Images that were not read as they should have been, by id.
        most_together: Images that were scored at a time, where whole batches did not fit into memory; else None.
    """

    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    statuses: NDArray[np.int8]
    flaws: list[Flaw]
    most_together: int | None = None


def evaluate(detector: Detector, data: BenchmarkDataModule, trainer: L.Trainer, *, tf32: bool = False) -> Predictions:
    """Score a benchmark.

    Args:
        detector: Any detector; its recipe preprocesses the images.
        data: The benchmark.
        trainer: Decides device, precision and number of processes. With several, every one returns all predictions.
        tf32: Let a GPU round the factors of the backbone's float32 products to TF32, which moves p_fake by some 1e-4.

    Raises:
        ConfigError: If there are fewer images than processes, or a single image does not fit into memory.
        DataError: If the processes do not see the same files.
        RuntimeError: If a sample came back twice or not at all, which would be a defect of ours.
    """
    if len(data.index) < trainer.world_size:
        raise ConfigError(
            f"trainer.devices: {trainer.world_size} processes for {len(data.index)} images; use trainer.devices=1"
        )
    data.use_recipe(detector.spec)
    collector = _Collector(data.index.fingerprint() if trainer.world_size > 1 else "")
    trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    try:
        module = DetectorModule(detector, data.index.subsets, torch.from_numpy(data.index.members()), tf32=tf32)
        trainer.test(module, datamodule=data, verbose=False)
    except Exception as error:
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"compile=true: the backbone could not be compiled ({reason}); use compile=false") from error
    finally:
        trainer.callbacks.remove(collector)  # type: ignore[attr-defined]
    predictions = _assemble(collector.gathered, len(data.index))
    return replace(predictions, most_together=module.scorer.most_together)


@dataclass
class _Share:
    """What one process has scored, and the fingerprint of the index whose ids it speaks of."""

    fingerprint: str
    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    flaws: list[Flaw]


class _Collector(L.Callback):
    """Keeps the scores of each batch on the device, and gathers all processes' at the end."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
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
        share = _Share(self.fingerprint, ids, scores[0], scores[1], self.flaws)
        self.gathered = [share]
        if trainer.world_size > 1:
            self.gathered = [share] * trainer.world_size
            torch.distributed.all_gather_object(self.gathered, share)


def _assemble(shares: list[_Share], size: int) -> Predictions:
    """Put the processes' shares into the index's order, and check that every sample is there once."""
    if len({share.fingerprint for share in shares}) > 1:
        raise DataError("data_root: the processes see different files; let copying finish, then start again")
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
    lost = np.flatnonzero(~np.isfinite(logits) & (statuses != Status.UNDECODABLE))
    statuses[lost] = Status.NON_FINITE
    flaws = sorted([*flaws, *(Flaw(int(i), Status.NON_FINITE, f"the detector's logit is {logits[i]}") for i in lost)])
    return Predictions(logits, p_fake, statuses, flaws)
