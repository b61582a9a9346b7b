"""What a stopped training goes on from: a checkpoint every so many steps, never between an epoch and its validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from mirror_pl.detectors.checkpoint.torch_file import save_torch
from mirror_pl.errors import ConfigError
from mirror_pl.modules.trainable import LOOK_EVERY
from mirror_pl.stopping import asked_to_stop, note_signals, stop


class ResumePoint(Checkpoint):
    """Saves ``last.ckpt`` every so many steps and at the end of each epoch, in place of the one before.

    Lightning's ModelCheckpoint saves after an epoch's last batch too, and Lightning does not make up for a validation that a
    training stopped there has missed: the best detector might be that of another epoch.

    Args:
        folder: Where the file goes.
        every_n_train_steps: Steps from one to the next.

    Raises:
        ConfigError: If that is less than 1.
    """

    def __init__(self, folder: str | Path, every_n_train_steps: int) -> None:
        if every_n_train_steps < 1:
            raise ConfigError(f"save_every_steps must be at least 1, got {every_n_train_steps}")
        self.path = Path(folder) / "last.ckpt"
        self.every = every_n_train_steps
        self._saved_at = 0
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the step that a training is gone on with as saved: gradients that accumulate after it would be lost."""
        self._saved_at = trainer.global_step
        note_signals(True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop the command at once again."""
        note_signals(False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let signals stop the command at once again."""
        note_signals(False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time or a signal asks the command to stop; of accumulated batches, after the last one."""
        is_new = trainer.global_step != self._saved_at
        self._due |= is_new and not trainer.global_step % self.every
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches or _validates(trainer, batch_idx):
            return
        asked = self._asked_to_stop(trainer) if trainer.world_size == 1 or not (batch_idx + 1) % LOOK_EVERY else 0
        if is_new and (asked or self._due):
            self._save(trainer)
        if asked:
            stop(asked)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what the epoch and its validation came to."""
        self._save(trainer)
        if asked := self._asked_to_stop(trainer):
            stop(asked)

    def _asked_to_stop(self, trainer: L.Trainer) -> int:
        """Return the signal that asked one of the processes to stop, the same in all; 0 if none did."""
        mine = int(asked_to_stop() or 0)
        if trainer.world_size == 1:
            return mine
        return int(trainer.strategy.reduce(torch.tensor(mine, device=trainer.strategy.root_device), reduce_op="max"))

    def _save(self, trainer: L.Trainer) -> None:
        self._saved_at, self._due = trainer.global_step, False
        trainer.save_checkpoint(self.path)


def _validates(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a validation comes between this batch and the next (`val_check_interval`): saved here, it would be missed."""
    every = trainer.val_check_batch
    done = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return bool(trainer.enable_validation and every and not (done + 1) % every)


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, on whatever disk; a full disk is an OutputError, and leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint in place of one that is there.

        Raises:
            OutputError: If it cannot be written.
        """
        del storage_options  # of remote file systems, which a run folder is not on
        save_torch(Path(path), checkpoint, replace=True)
