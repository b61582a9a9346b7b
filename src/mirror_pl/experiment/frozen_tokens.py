"""What a bank is trained on: the tokens of a batch from a frozen backbone, computed or kept from before."""

from __future__ import annotations

import torch
from torch import Tensor

from mirror_pl.detectors.exact import float32_products
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.experiment.batch import Batch


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
