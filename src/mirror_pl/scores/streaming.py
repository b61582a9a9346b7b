"""Balanced accuracy per subset as a torchmetrics metric, for `trainer.test` to log while it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class SubsetBalancedAccuracy(Metric):
    """Mean of real and fake accuracy, for each subset.

    Counts are kept as integers and summed over processes, so the value is exact for any batch size and number of ranks.
    Decisions come in as booleans: torchmetrics' own binary metrics guess per batch whether they were given logits.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, num_subsets: int) -> None:
        super().__init__()
        # Axes: subset, label, wrong or right.
        self.add_state("counts", default=torch.zeros(num_subsets, 2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, decided_fake: Tensor, label: Tensor, subset: Tensor) -> None:
        """Count a batch.

        Args:
            decided_fake: ``(B,)`` bool.
            label: ``(B,)`` integer, 0 real and 1 fake.
            subset: ``(B,)`` integer, below `num_subsets`.
        """
        correct = (decided_fake == label.bool()).long()
        cell = (subset.long() * 2 + label.long()) * 2 + correct
        self.counts += torch.bincount(cell, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> Tensor:
        """Return ``(num_subsets,)`` float64 in [0, 1]; NaN where a subset lacks a class."""
        counts = self.counts.cpu().double()  # not every accelerator has float64
        accuracy = counts[..., 1] / counts.sum(dim=-1)
        return accuracy.mean(dim=-1)
