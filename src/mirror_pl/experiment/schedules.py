"""Learning rates as functions of the step, so that a resumed run needs no state of them."""

from __future__ import annotations

import math


def cosine_by_epoch(step: int, steps_an_epoch: int, epochs: int) -> float:
    """Factor of the learning rate in Phase 1: a half cosine over the epochs, constant within one (released code)."""
    return 0.5 * (1 + math.cos(math.pi * min(step // steps_an_epoch, epochs) / epochs))


def warm_up_then_cosine(step: int, warm_up_steps: int, steps: int, least: float) -> float:
    """Factor of the learning rate in Phase 2: linear warm-up, then a half cosine down to `least`, at every step.

    Args:
        step: From 0 on.
        warm_up_steps: Steps of the warm-up; its last one has factor 1.
        steps: Of the whole training.
        least: Factor at the end, in [0, 1].
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    done = (step - warm_up_steps) / max(1, steps - 1 - warm_up_steps)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
