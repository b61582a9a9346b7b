"""What travels from the loader's workers to the detector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirror_pl.scores import Status


class Sample(NamedTuple):
    """One image of a benchmark or a training set, decoded and preprocessed, or the reason why not.

    Attributes:
        id: Its position in the training set; of a benchmark, see `BenchmarkDataModule.num_samples`.
        label: 0 real, 1 fake.
        group: Position of its group in the manifest, a subset or a set of shared reals, plus all groups for each condition
            before its own; 0 in training.
        status: What became of it.
        pixels: ``(H, W, 3)`` uint8, or ``(C, H, W, 3)`` of an image with several crops; None where undecodable, and in
            training also where truncated.
        reason: In words, where the status is not OK; otherwise empty.
    """

    id: int
    label: int
    group: int
    status: Status
    pixels: NDArray[np.uint8] | None
    reason: str


class Flaw(NamedTuple):
    """An image that was not read as it should have been."""

    id: int
    status: Status
    reason: str


class Batch(NamedTuple):
    """B images that could be decoded, and the flaws met on the way to them; B may be 0.

    Attributes:
        ids: ``(B,)`` int64.
        pixels: ``(B * C, 3, H, W)`` uint8, the C crops of an image after each other; scaled and normalised on the device. Of
            no size where there are tokens.
        labels: ``(B,)`` int64.
        groups: ``(B,)`` int64.
        flaws: Undecodable images, which are not among the B, and truncated ones, which are, but for training.
        tokens: ``(B, N, D)`` float32, features of a frozen backbone that were kept; None where pixels were read.
    """

    ids: Tensor
    pixels: Tensor
    labels: Tensor
    groups: Tensor
    flaws: list[Flaw]
    tokens: Tensor | None = None


def collate(samples: list[Sample]) -> Batch:
    """Put samples together."""
    good = [sample for sample in samples if sample.pixels is not None]
    pixels = [torch.from_numpy(sample.pixels.reshape(-1, *sample.pixels.shape[-3:])) for sample in good]  # type: ignore[union-attr]
    return Batch(
        ids=torch.tensor([sample.id for sample in good], dtype=torch.int64),
        # Stays channels-last in memory: no copy here, and the layout convolutions like.
        pixels=torch.cat(pixels).permute(0, 3, 1, 2) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8),
        labels=torch.tensor([sample.label for sample in good], dtype=torch.int64),
        groups=torch.tensor([sample.group for sample in good], dtype=torch.int64),
        flaws=[Flaw(s.id, s.status, s.reason) for s in samples if s.status is not Status.OK],
    )
