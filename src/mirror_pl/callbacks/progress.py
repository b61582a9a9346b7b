"""Progress where there is no terminal: a plain line now and then, for the log of a long run."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from datetime import timedelta
from typing import Any

import lightning as L

from mirror_pl.data.batch import Batch

RATE_OVER_BATCHES = 20
"""Batches that the logged speed is averaged over."""


class ProgressLog(L.Callback):
    """Print how many images are scored or steps made, how fast, and the time left; silent on a terminal, which has a bar.

    In training it also logs ``train/images_per_s``, of all processes together, over the last `RATE_OVER_BATCHES` batches.

    Args:
        every_s: Seconds between two lines.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        self.every_s = every_s
        self._done = 0
        self._started = self._last = 0.0
        self._finished: deque[tuple[float, int]] = deque(maxlen=RATE_OVER_BATCHES + 1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._done, self._started = 0, time.monotonic()
        self._last = self._started
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the speed from now on: a validation is no training."""
        self._restart()

    def _restart(self) -> None:
        self._finished.clear()
        self._finished.append((time.monotonic(), 0))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch, and print a line if it is time."""
        self._done += 1
        self._finished.append((time.monotonic(), len(batch.ids) * trainer.world_size))
        (first, _), (last, _) = self._finished[0], self._finished[-1]
        rate = sum(images for _, images in list(self._finished)[1:]) / max(last - first, 1e-9)
        pl_module.log("train/images_per_s", rate, batch_size=1)
        if not self._is_time(trainer):
            return
        total = trainer.estimated_stepping_batches
        made = trainer.global_step
        left = (total - made) * trainer.accumulate_grad_batches
        loss = trainer.callback_metrics.get("train/loss")
        figures = "" if loss is None else f"loss {float(loss):.4g}, "
        time_left = self._time_left(self._done, left) if math.isfinite(left) else "?"
        print(f"{made:,}/{total:,} steps, {figures}{rate:.0f} images/s, {time_left} left", flush=True)  # noqa: T201

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._done, self._started = 0, time.monotonic()
        self._last = self._started

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and print a line if it is time."""
        self._done += (len(batch.ids) + sum(flaw.id not in batch.ids for flaw in batch.flaws)) * trainer.world_size
        if not self._is_time(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        total = data.left // len(data.conditions)
        done = min(self._done // len(data.conditions), total)
        speed = done / (time.monotonic() - self._started)
        left = self._time_left(done, total - done)
        print(f"{done:,}/{total:,} images, {speed:.1f} images/s, {left} left", flush=True)  # noqa: T201

    def _is_time(self, trainer: L.Trainer) -> bool:
        now = time.monotonic()
        if now - self._last < self.every_s or not trainer.is_global_zero or sys.stdout.isatty():
            return False
        self._last = now
        return True

    def _time_left(self, done: int, left: float) -> timedelta | str:
        """Return the time that `left` take, at the speed of those done so far."""
        return timedelta(seconds=round((time.monotonic() - self._started) * left / done)) if done else "?"
