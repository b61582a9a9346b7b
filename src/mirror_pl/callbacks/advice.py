"""What a training says of its own chances: settings that cannot learn, and figures that say that nothing was learnt."""

from __future__ import annotations

import math
from typing import Any, Final

import lightning as L
import numpy as np

from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

FEW_STEPS: Final = 50
FEW_IMAGES: Final = 100
"""Per class."""
MOST_WARM_UP: Final = 1 / 3
"""Of all steps."""
MANY_DEAD: Final = 0.1
"""Of all slots."""


class TrainingAdvice(L.Callback):
    """Prints, in the first process, how many steps a training has, and a warning with its remedy where it will hardly learn.

    Before the first step: fewer than `FEW_STEPS` steps, a warm-up of more than `MOST_WARM_UP` of them, a class with fewer
    than `FEW_IMAGES` images. After the last: an explained variance below 0, and more than `MANY_DEAD` of the slots dead.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how long the training is, and what of it cannot work."""
        del pl_module
        steps, per_epoch = trainer.estimated_stepping_batches, trainer.num_training_batches
        if not trainer.is_global_zero or not math.isfinite(steps) or not per_epoch:
            return
        per_epoch = math.ceil(per_epoch / trainer.accumulate_grad_batches)
        print(f"{steps:,} steps: {steps / per_epoch:.3g} epochs of {per_epoch:,}", flush=True)  # noqa: T201
        longer = "trainer.max_steps" if trainer.max_steps == steps else "phase.epochs"
        if steps < FEW_STEPS:
            _warn(f"{steps:,} steps are few; raise {longer}, lower batch_size, or give more images")
        for config in trainer.lr_scheduler_configs:
            warm_up = getattr(config.scheduler, "warm_up_steps", 0)
            if warm_up > MOST_WARM_UP * steps:
                _warn(
                    f"the learning rate rises during {min(warm_up, steps):,.0f} of the {steps:,} steps; lower "
                    f"scheduler.warm_up_epochs, or raise {longer}"
                )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        labels = data.training_set.labels if hasattr(data, "training_set") else ()
        for label in (REAL, FAKE):
            count = np.count_nonzero(np.equal(labels, label))
            if 0 < count < FEW_IMAGES:
                _warn(f"{count} {LABEL_NAMES[label]} images are few; give more as data.{LABEL_NAMES[label]} or data.root")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what the last figures mean, where they are bad."""
        if not trainer.is_global_zero:
            return
        figures = trainer.callback_metrics
        explained, dead = (float(figures.get(f"train/{name}", math.nan)) for name in ("explained", "dead_slots"))
        if explained < 0:
            _warn(
                f"the bank explains {explained:.3g} of the features' variance: a constant would explain more; raise "
                "phase.epochs or optimizer.lr, or begin with phase.init=tokens"
            )
        slots = len(getattr(pl_module, "usage", ()))
        if dead > MANY_DEAD * slots:
            _warn(
                f"{dead:.0f} of {slots} slots are dead: no feature used them; lower phase.slots, or begin with "
                "phase.init=tokens"
            )


def _warn(text: str) -> None:
    print(f"Warning: {text}", flush=True)  # noqa: T201
