"""Learning rates as functions of the step, so that a resumed run needs no state of them."""

from __future__ import annotations

import math


def cosine_by_epoch(step: int, steps_an_epoch: int, epochs: int) -> float:
    """Factor of the learning rate in Phase 1: a half cosine over the epochs, constant within one (released code)."""
    return 0.5 * (1 + math.cos(math.pi * min(step // steps_an_epoch, epochs) / epochs))
