"""What training a bank and training a detector share: steps that can be resumed, counted, measured and stopped."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import DataError, OutputError
from mirror_pl.experiment.batch import Batch, Flaw
from mirror_pl.files import printable, write_text

RATE_OVER_STEPS = 20
"""Steps that the logged speed is averaged over."""


class Validated(NamedTuple):
    """What a detector in training got on the validation sets.

    Attributes:
        step: Steps it was trained for.
        bal_acc: Balanced accuracy by set, in [0, 1].
    """

    step: int
    bal_acc: dict[str, float]

    @property
    def mean(self) -> float:
        """Unweighted mean over the sets; what is best is decided by it."""
        return float(np.mean(list(self.bal_acc.values())))


class TrainingModule(L.LightningModule, ABC):
    """Trains parts of a detector in place; all others stay as they are.

    One pass over a loader is the whole training: the loader goes through the epochs, and `step` counts on over them, also
    when a run is resumed. Everything that changes from step to step follows from the number of the step: the learning rate,
    and the random numbers that dropout draws, which are seeded anew for each step and process.

    Logs at each step, of this process's batch, ``train/loss``, ``train/learning_rate``, ``train/images_per_s`` (all
    processes together, over the last `RATE_OVER_STEPS` steps) and what a subclass adds.

    Args:
        detector: Parts of it are trained, in place.
        steps_an_epoch: Batches that make an epoch.
        seed: Of the random numbers drawn in training; 0 or more.

    Attributes:
        step: Steps made, all runs together.
        flaws: Images that could not be read and were left out, by id; of this process's share, since it was started.
        epoch_figures: What was logged at the end of the last epoch.
        validated: What `Validation` found so far, in order, all runs together.
    """

    def __init__(self, detector: MirrorDetector, steps_an_epoch: int, seed: int) -> None:
        super().__init__()
        self.detector = detector.requires_grad_(False)
        self.steps_an_epoch = steps_an_epoch
        self.seed = seed
        self.step = 0
        self.flaws: dict[int, Flaw] = {}
        self.epoch_figures: dict[str, float] = {}
        self.validated: list[Validated] = []
        self._finished: deque[tuple[float, int]] = deque(maxlen=RATE_OVER_STEPS + 1)

    @abstractmethod
    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, besides the optimizer, by names that stay the same."""

    @abstractmethod
    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""

    @abstractmethod
    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch of at least one image, and what else is to be logged."""

    def trained_state(self) -> dict[str, Tensor]:
        """What training changed so far, besides the optimizer."""
        return {name: parameter.detach() for name, parameter in self.trained_parameters().items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `trained_state` returned.

        Raises:
            KeyError: If a parameter is missing from it.
        """
        for name, parameter in self.trained_parameters().items():
            parameter.copy_(state[name])

    def on_train_start(self) -> None:
        """Set the modes, which Lightning leaves as it finds them, and start the clock."""
        self.train()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the speed from now on: what came before was no training."""
        self._finished.clear()
        self._finished.append((time.perf_counter(), 0))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set what belongs to this step: the learning rate, and where random numbers come from."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.learning_rate()
        entropy = np.random.SeedSequence([self.seed, self.step, self.global_rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(entropy[0]) >> 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            DataError: If it is not finite; the names of the batch's images are kept.
        """
        self.flaws.update((flaw.id, flaw) for flaw in batch.flaws)
        if len(batch.ids):
            loss, logged = self.loss_of(batch)
        else:  # no image of the batch could be read; other processes wait for gradients
            loss = torch.stack([parameter.sum() for parameter in self.trained_parameters().values()]).sum() * 0
            logged = {}
        # All processes stop together: one alone would leave the others waiting for its gradients.
        if not self.trainer.strategy.reduce_boolean_decision(bool(loss.detach().isfinite()), all=True):
            self._stop_at(batch, float(loss.detach()))
        if not len(batch.ids):
            return loss
        self._finished.append((time.perf_counter(), len(batch.ids) * self.trainer.world_size))
        rate = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        figures = {"loss": loss.detach(), **logged, "learning_rate": rate, "images_per_s": torch.tensor(self._rate())}
        # Lightning takes "step" for the axis; its own count begins anew when a run is resumed.
        self.log_dict({"step": float(self.step), **{f"train/{name}": value for name, value in figures.items()}})
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step, and count it: callbacks find it counted when the batch ends."""
        super().optimizer_step(*args, **kwargs)
        self.step += 1

    def log_epoch(self, figures: dict[str, float]) -> None:
        """Log figures of a whole epoch at once: what is passed to `log` waits for the next row."""
        self.epoch_figures |= figures
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=self.step)

    def _rate(self) -> float:
        """Images a second, from the end of the oldest of the last steps to the end of the last one."""
        (first, _), (last, _) = self._finished[0], self._finished[-1]
        return sum(images for _, images in list(self._finished)[1:]) / max(last - first, 1e-9)

    def _stop_at(self, batch: Batch, loss: float) -> None:
        shares = [(loss, batch.ids.tolist())]
        if self.trainer.world_size > 1:
            shares *= self.trainer.world_size
            torch.distributed.all_gather_object(shares, (loss, batch.ids.tolist()))
        loss, images = next(share for share in shares if not math.isfinite(share[0]))
        paths = self.trainer.datamodule.training_set.paths  # type: ignore[attr-defined]
        file = Path(self.trainer.default_root_dir) / "not_finite.txt"
        with suppress(OutputError):
            if self.trainer.is_global_zero:
                write_text(file, "".join(f"{printable(paths[image])}\n" for image in images))
        raise DataError(
            f"the loss is {loss} at step {self.step}; the images of that batch are named in {file}. Start anew with a lower "
            "phase.learning_rate, or without what is wrong with them"
        )
