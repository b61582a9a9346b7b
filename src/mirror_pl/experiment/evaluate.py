"""Evaluation: every image of a benchmark through a detector, by Lightning's `trainer.test`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.contract import Detector
from mirror_pl.errors import ConfigError
from mirror_pl.experiment.batch import Flaw
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.detector_module import DetectorModule
from mirror_pl.experiment.process_watch import watching
from mirror_pl.experiment.score_keeper import PartsOfRun, ScoreKeeper
from mirror_pl.scores import Status
from mirror_pl.scores.parts import PartialScores


@dataclass(frozen=True)
class Predictions:
    """What a detector says of every sample of an index, whose order the columns share.

    Attributes:
        logits: ``(S,)`` float32; not finite where there is no score.
        p_fake: ``(S,)`` float32; likewise.
        statuses: ``(S,)`` int8 of `Status`.
        flaws: Images that were not read as they should have been, by id.
        resumed: Samples that an earlier try of the run had scored.
        most_together: Images that were scored at a time, where whole batches did not fit into memory; else None.
    """

    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    statuses: NDArray[np.int8]
    flaws: list[Flaw]
    resumed: int = 0
    most_together: int | None = None


def evaluate(
    detector: Detector,
    data: BenchmarkDataModule,
    trainer: L.Trainer,
    *,
    tf32: bool = False,
    policy: CropPolicy | None = None,
    parts: PartsOfRun | None = None,
) -> Predictions:
    """Score a benchmark.

    Args:
        detector: Any detector; its recipe preprocesses the images.
        data: The benchmark.
        trainer: Decides device, precision and number of processes. With several, every one returns all predictions.
        tf32: Let a GPU round the factors of the backbone's float32 products to TF32, which moves p_fake by some 1e-4.
        policy: How the scores of an image's crops become one. The data module has the policy's crops.
        parts: Where scores are kept until all are there, and those of an earlier try are found; None keeps none.

    Raises:
        ConfigError: If a single image does not fit into memory.
        DataError: If the processes do not see the same files.
        OutputError: If scores cannot be kept.
        LostProcessError: If one of several processes died.
        RuntimeError: If a sample came back twice or not at all, which would be a defect of ours.
    """
    data.use_recipe(detector.spec)
    data.trainer = trainer
    keeper = ScoreKeeper(data, parts)
    trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
    try:
        members = torch.from_numpy(data.index.members())
        module = DetectorModule(detector, data.index.subsets, members, tf32=tf32, policy=policy)
        with watching(trainer):
            trainer.test(module, datamodule=data, verbose=False)
    except Exception as error:
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"compile=true: the backbone could not be compiled ({reason}); use compile=false") from error
    finally:
        trainer.callbacks.remove(keeper)  # type: ignore[attr-defined]
    predictions = assemble([keeper.before, *keeper.gathered], len(data.index))
    return replace(predictions, resumed=len(keeper.before), most_together=module.scorer.most_together)


def assemble(shares: Sequence[PartialScores], size: int) -> Predictions:
    """Put shares into the index's order, and check that every sample is there once."""
    logits, p_fake = np.full((2, size), np.nan, np.float32)
    statuses = np.full(size, Status.OK, np.int8)
    seen = np.zeros(size, np.int64)
    reasons: dict[int, str] = {}
    for share in shares:
        logits[share.ids], p_fake[share.ids], statuses[share.ids] = share.logits, share.p_fake, share.statuses
        np.add.at(seen, share.ids, 1)
        reasons |= share.reasons
    if not (seen == 1).all():
        raise RuntimeError(
            f"evaluation: of {size} samples {int((seen == 0).sum())} came back without a verdict and "
            f"{int((seen > 1).sum())} more than once; nothing was written"
        )
    flaws = [Flaw(i, Status(int(statuses[i])), reason) for i, reason in sorted(reasons.items())]
    lost = np.flatnonzero(~np.isfinite(logits) & (statuses != Status.UNDECODABLE))
    statuses[lost] = Status.NON_FINITE
    flaws = sorted([*flaws, *(Flaw(int(i), Status.NON_FINITE, f"the detector's logit is {logits[i]}") for i in lost)])
    return Predictions(logits, p_fake, statuses, flaws)
