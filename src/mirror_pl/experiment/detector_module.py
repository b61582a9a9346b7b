"""A detector as a LightningModule: scores batches, logs balanced accuracy, and saves itself under names of ours."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.checkpoint import detector_content
from mirror_pl.detectors.checkpoint.files import CONFIG_KEY
from mirror_pl.detectors.checkpoint.names import live_names
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.exact import float32_products
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.experiment.batch import Batch
from mirror_pl.scores.streaming import SubsetBalancedAccuracy


class DetectorModule(L.LightningModule):
    """Wraps a detector for Lightning's trainer.

    Logs, at the end of a test, ``test/bal_acc/SUBSET`` for each subset that has both classes, and ``test/bal_acc``, their
    unweighted mean; fractions in [0, 1], summed exactly over all ranks.

    Args:
        detector: Any detector.
        subsets: Names of the benchmark's subsets.
        members: ``(subsets, groups)`` bool: whether the images of a group count in a subset; a batch's `groups` point
            into the groups.
        tf32: Let a GPU round the factors of the backbone's float32 products to TF32.
        policy: How the scores of an image's crops become one; None is the detector's protocol.
    """

    def __init__(
        self,
        detector: Detector,
        subsets: tuple[str, ...] = (),
        members: Tensor | None = None,
        *,
        tf32: bool = False,
        policy: CropPolicy | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy or detector.protocol
        self.detector = detector
        self.tf32 = tf32
        self.scorer = SplittingScorer(detector)
        self.subsets = subsets
        self.balanced_accuracy = SubsetBalancedAccuracy(torch.zeros(0, 0) if members is None else members)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Score a batch; returns ``logit`` and ``p_fake``, ``(B,)`` float32 each."""
        if len(batch.ids) == 0:  # every image of the batch was undecodable
            logit = p_fake = torch.empty(0, device=self.device)
        else:
            with float32_products(batch.pixels.device, tf32=self.tf32):
                logit, p_fake = self.scorer(batch.pixels)[:2]
            if len(logit) != len(batch.ids):
                logit, p_fake = self.policy(logit.view(len(batch.ids), -1))
        self.balanced_accuracy.update(logit > 0, batch.labels, batch.groups)
        return {"logit": logit, "p_fake": p_fake}

    def on_test_epoch_end(self) -> None:
        """Log balanced accuracies."""
        values = self.balanced_accuracy.compute().reshape(-1)  # torchmetrics makes a scalar of a single value
        self.balanced_accuracy.reset()
        defined = {name: value for name, value in zip(self.subsets, values, strict=True) if not value.isnan()}
        for name, value in defined.items():
            self.log(f"test/bal_acc/{name}", value.float(), rank_zero_only=True)
        if defined:
            self.log("test/bal_acc", torch.stack(list(defined.values())).mean().float(), rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save tensors under our names, and the config that rebuilds the detector without Hydra or Lightning."""
        if not isinstance(self.detector, MirrorDetector):
            return
        checkpoint.update(detector_content(self.detector))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Translate our names into those the installed transformers has."""
        if CONFIG_KEY not in checkpoint:
            return
        live = live_names(self.detector)
        checkpoint["state_dict"] = {
            f"detector.{live.get(name, name)}": tensor for name, tensor in checkpoint["state_dict"].items()
        }
