"""What a memory bank's prototypes are before Phase 1 begins, where they are taken from features instead of drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mirror_pl.data.batch import Batch
from mirror_pl.detectors.exact import float32_products
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import ConfigError, DataError, name_list

BankInit = Literal["orthogonal", "tokens", "kmeans"]
"""Orthogonal directions, as in the released code; tokens of training images; or the centres of clusters of such tokens."""

TOKENS_PER_SLOT: Final = 32
"""Tokens that are gathered for each prototype."""
ITERATIONS: Final = 20
"""Rounds of k-means: its centres hardly move after that."""
_TOGETHER: Final = 2**26
"""Distances computed at a time."""


def check_init(init: str) -> None:
    """Raise ConfigError if there is no such way to begin."""
    if init not in get_args(BankInit):
        raise ConfigError(f"phase.init must be one of {name_list(get_args(BankInit))}, got {init!r}")


@torch.no_grad()
def init_from_features(
    detector: MirrorDetector, batches: Iterable[Batch], init: BankInit, seed: int, device: torch.device
) -> None:
    """Set the prototypes of a detector's bank to tokens, or to centres of tokens, of as many batches as that takes.

    Args:
        detector: Its bank is changed in place; it is left on `device`.
        batches: Of training images; not all need to be read.
        init: "tokens" or "kmeans"; "orthogonal" leaves the bank as it is.
        seed: Decides which tokens.
        device: To compute on.

    Raises:
        DataError: If there are fewer tokens than prototypes.
    """
    if init == "orthogonal":
        return
    slots = detector.memory_bank.config.slots
    generator = torch.Generator().manual_seed(seed)
    detector.to(device)
    found: list[Tensor] = []
    count = 0
    for batch in batches:
        if len(batch.ids):
            tokens = frozen_tokens(detector, batch, device).flatten(0, 1)
            found.append(tokens)
            count += len(tokens)
        if count >= slots * TOKENS_PER_SLOT:
            break
    if count < slots:
        raise DataError(
            f"phase.init={init}: the images have {count} tokens, too few for {slots} prototypes; give more images or "
            "phase.init=orthogonal"
        )
    tokens = torch.cat(found)
    start = tokens[torch.randperm(count, generator=generator)[:slots].to(device)]
    prototypes = start if init == "tokens" else kmeans(tokens, start)
    detector.memory_bank.memory.copy_(prototypes)


@torch.no_grad()
def kmeans(points: Tensor, centres: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Move centres to the means of the points that are nearest to them, round by round (Lloyd's algorithm).

    A centre that no point is nearest to goes to the point that is farthest from its own. The same points give the same
    centres on one machine.

    Args:
        points: ``(P, D)``.
        centres: ``(K, D)``, where to begin; K is at most P.
        iterations: Rounds at most; it ends when no point changes its centre.

    Returns:
        ``(K, D)`` centres.
    """
    slots = len(centres)
    assigned: Tensor | None = None
    for _ in range(iterations):
        nearest, distance = _nearest(points, centres)
        if assigned is not None and torch.equal(nearest, assigned):
            break
        assigned = nearest
        sums, counts = torch.zeros_like(centres), points.new_zeros(slots)
        for part, members in zip(points.split(_rows(slots)), nearest.split(_rows(slots)), strict=True):
            one_hot = F.one_hot(members, slots).to(points.dtype)  # a product adds in a fixed order, on every device
            sums += one_hot.T @ part
            counts += one_hot.sum(dim=0)
        empty = (counts == 0).nonzero().flatten()
        centres = sums / counts.clamp_min(1)[:, None]
        if len(empty):
            centres[empty] = points[distance.topk(len(empty)).indices]
    return centres


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's nearest centre ``(P,)`` and the squared distance to it ``(P,)``."""
    squares = centres.square().sum(dim=1)
    found = []
    for part in points.split(_rows(len(centres))):
        distances = squares - 2 * (part @ centres.T)
        best = distances.min(dim=1)
        found.append((best.indices, best.values + part.square().sum(dim=1)))
    nearest, distance = zip(*found, strict=True)
    return torch.cat(nearest), torch.cat(distance)


def _rows(slots: int) -> int:
    return max(1, _TOGETHER // slots)


@torch.no_grad()
def frozen_tokens(detector: MirrorDetector, batch: Batch, device: torch.device) -> Tensor:
    """Return the tokens ``(B, N, D)`` of a batch, float32, on `device`, where the detector is; without gradients.

    As in an evaluation, float32 is multiplied in full, so that a bank learns the features that it will be asked about.
    """
    if batch.tokens is not None:
        return batch.tokens.to(device)
    with float32_products(device, tf32=False):
        tokens: Tensor = detector.features(batch.pixels.to(device).float() / 255).tokens.float()
        return tokens
