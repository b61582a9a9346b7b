"""Learning rates as functions of the step, so that a resumed run needs no state of them."""

from __future__ import annotations

import math


def cosine_by_epoch(step: int, steps_an_epoch: int, epochs: int) -> float:
    """Factor of the learning rate in Phase 1: a half cosine over the epochs, constant within one (released code)."""
    return 0.5 * (1 + math.cos(math.pi * min(step // steps_an_epoch, epochs) / epochs))


def warm_up_then_cosine(step: int, steps_an_epoch: int, epochs: int, warm_up_epochs: float, last: float) -> float:
    """Factor of the learning rate in Phase 2: linear from 0, then a half cosine, step by step (released code).

    Args:
        step: Steps made; 0 gives 0 where there is a warm-up.
        steps_an_epoch: Steps of an epoch.
        epochs: Of the whole training.
        warm_up_epochs: Epochs until the factor is 1.
        last: Factor at the end of the last epoch, at most 1.
    """
    epoch = step / steps_an_epoch
    if epoch < warm_up_epochs:
        return epoch / warm_up_epochs
    if epochs <= warm_up_epochs:  # nothing is left for the cosine
        return 1.0
    done = min((epoch - warm_up_epochs) / (epochs - warm_up_epochs), 1.0)
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))
