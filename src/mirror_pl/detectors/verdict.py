"""What a detector says of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Verdict(NamedTuple):
    """The decision on a batch of images and what it rests on.

    Attributes:
        logit: ``(B,)`` float32; above 0 means fake. The decision is its sign.
        p_fake: ``(B,)`` float32 in [0, 1], ``sigmoid(logit)``.
        evidence: Named tensors whose first axis is the batch; which ones depends on the detector.
    """

    logit: Tensor
    p_fake: Tensor
    evidence: Mapping[str, Tensor]
