"""Progress where there is no terminal: a plain line now and then, for the log of a long run."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L

from mirror_pl.experiment.batch import Batch


class ProgressLog(L.Callback):
    """Print how many images are scored, how fast, and the time left; silent on a terminal, where a bar shows it.

    Args:
        every_s: Seconds between two lines.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        self.every_s = every_s
        self._done = 0
        self._started = self._last = 0.0

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
        now = time.monotonic()
        if now - self._last < self.every_s or not trainer.is_global_zero or sys.stdout.isatty():
            return
        self._last = now
        total = len(trainer.datamodule.index)  # type: ignore[attr-defined]
        done = min(self._done, total)
        speed = done / (now - self._started)
        left = timedelta(seconds=round((total - done) / speed)) if speed else "?"
        print(f"{done:,}/{total:,} images, {speed:.1f} images/s, {left} left", flush=True)  # noqa: T201
