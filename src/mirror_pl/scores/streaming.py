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

    def __init__(self, members: Tensor) -> None:
        """Take ``(subsets, groups)`` bool: whether the images of a group count in a subset; shared reals do in several."""
        super().__init__()
        self.members = members.cpu().double()
        # Axes: group, label, wrong or right.
        self.add_state("counts", default=torch.zeros(members.shape[1], 2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, decided_fake: Tensor, label: Tensor, group: Tensor) -> None:
        """Count a batch.

        Args:
            decided_fake: ``(B,)`` bool.
            label: ``(B,)`` integer, 0 real and 1 fake.
            group: ``(B,)`` integer, position in the groups of `members`.
        """
        correct = (decided_fake == label.bool()).long()
        cell = (group.long() * 2 + label.long()) * 2 + correct
        self.counts += torch.bincount(cell, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> Tensor:
        """Return ``(subsets,)`` float64 in [0, 1]; NaN where a subset lacks a class."""
        # On the CPU: not every accelerator has float64.
        counts = torch.einsum("sg,glc->slc", self.members, self.counts.cpu().double())
        accuracy = counts[..., 1] / counts.sum(dim=-1)
        return accuracy.mean(dim=-1)
