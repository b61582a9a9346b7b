"""Phase 1: a memory bank learns to rebuild the features of real images from a frozen backbone (paper, Eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mirror_pl.detectors.exact import exact_float32, float32_products
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import ConfigError, DataError, OutputError
from mirror_pl.experiment.batch import Batch, Flaw
from mirror_pl.experiment.losses import LossForm, check_form, orthogonality_floor, orthogonality_loss, reconstruction_loss
from mirror_pl.experiment.schedules import cosine_by_epoch
from mirror_pl.files import printable, write_text


@dataclass(frozen=True)
class BankTraining:
    """How Phase 1 learns; the defaults are those of the released code.

    Attributes:
        epochs: Times that every image is seen.
        learning_rate: At the start; a half cosine over the epochs takes it to 0.
        weight_decay: Of all parameters of the bank.
        orthogonality: Weight of the orthogonality loss.
        loss_form: "released" or "paper"; see `losses`.
    """

    epochs: int = 100
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    orthogonality: float = 0.01
    loss_form: LossForm = "released"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"phase.epochs must be at least 1, got {self.epochs}")
        if self.learning_rate <= 0:
            raise ConfigError(f"phase.learning_rate must be more than 0, got {self.learning_rate}")
        check_form(self.loss_form)
        for name in ("weight_decay", "orthogonality"):
            if getattr(self, name) < 0:
                raise ConfigError(f"phase.{name} must be 0 or more, got {getattr(self, name)}")


class MemoryBankModule(L.LightningModule):
    """Trains the memory bank of a detector; backbone, normalisation and head stay as they are.

    One pass over a loader is the whole training: the loader goes through the epochs, and `step` counts on over them, also
    when a run is resumed. Logs at each step, of this process's batch: ``train/loss``; ``train/reconstruction``, the mean
    squared error an element; ``train/explained``, the share of the tokens' variance that it leaves out (1 is all of it);
    ``train/orthogonality``, whose least value is ``train/orthogonality_floor``; ``train/learning_rate``. At the end of each
    epoch, over all processes: ``train/dead_slots``, slots that no token used in it, and ``train/usage_entropy``, the entropy
    of the slots' shares in all weights, from 0 (one slot) to 1 (all alike); after a run was resumed, since
    then.

    Args:
        detector: Its bank is trained, in place.
        training: How.
        steps_an_epoch: Batches that make an epoch.

    Attributes:
        step: Steps made, all runs together.
        flaws: Images that could not be read and were left out, by id; of this process's share, since it was started.
        epoch_figures: What was logged at the end of the last epoch.
    """

    def __init__(self, detector: MirrorDetector, training: BankTraining, steps_an_epoch: int) -> None:
        super().__init__()
        self.detector = detector.requires_grad_(False)
        self.detector.memory_bank.requires_grad_(True)
        self.training_settings = training
        self.steps_an_epoch = steps_an_epoch
        self.step = 0
        slots, width = detector.memory_bank.memory.shape
        self.floor = orthogonality_floor(slots, width, training.loss_form)
        self.usage = torch.zeros(slots)  # no buffer: DistributedDataParallel would overwrite it with the first process's
        self.epoch_figures: dict[str, float] = {}
        self.flaws: dict[int, Flaw] = {}

    def train(self, mode: bool = True) -> MemoryBankModule:
        """Set train or eval mode of the bank; the frozen parts stay in eval mode."""
        super().train(mode)
        self.detector.eval()
        self.detector.memory_bank.train(mode)
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """What training changes, besides the optimizer: the bank."""
        return self.detector.memory_bank.state_dict()

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `trained_state` returned."""
        self.detector.memory_bank.load_state_dict(state)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all parameters of the bank."""
        settings = self.training_settings
        parameters = self.detector.memory_bank.parameters()
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def on_fit_start(self) -> None:
        """Check that all processes see the same images, which share out the batches by their ids.

        Raises:
            DataError: If they do not.
        """
        if self.trainer.world_size > 1:
            mine = self.trainer.datamodule.training_set.fingerprint()  # type: ignore[attr-defined]
            everyones = [mine] * self.trainer.world_size
            torch.distributed.all_gather_object(everyones, mine)
            if len(set(everyones)) > 1:
                raise DataError("data: the processes see different files; let copying finish, then start again")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        factor = cosine_by_epoch(self.step, self.steps_an_epoch, self.training_settings.epochs)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.training_settings.learning_rate * factor

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            DataError: If it is not finite; the names of the batch's images are kept.
        """
        self.flaws.update((flaw.id, flaw) for flaw in batch.flaws)
        bank, settings = self.detector.memory_bank, self.training_settings
        if len(batch.ids) == 0:  # no image of the batch could be read; other processes wait for gradients
            return torch.stack([parameter.sum() for parameter in bank.parameters()]).sum() * 0
        # As in an evaluation: full products, so that the bank learns the features that it will be asked about.
        with torch.no_grad(), float32_products(batch.pixels.device, tf32=False):
            tokens = self.detector.features(batch.pixels.float() / 255).tokens.float()
        evidence = bank.reconstruct(tokens)
        with exact_float32(tokens.device):  # in bfloat16 the orthogonality of a good bank is nothing but rounding
            reconstruction = reconstruction_loss(tokens, evidence.attended, settings.loss_form)
            orthogonality = orthogonality_loss(bank.memory, settings.loss_form)
            loss = reconstruction + settings.orthogonality * orthogonality
        # All processes stop together: one alone would leave the others waiting for its gradients.
        if not self.trainer.strategy.reduce_boolean_decision(bool(loss.detach().isfinite()), all=True):
            self._stop_at(batch, float(loss.detach()))
        self.usage = self.usage.to(evidence.usage) + evidence.usage
        error = (evidence.attended - tokens).detach().square().mean()
        logged = {
            "loss": loss.detach(),
            "reconstruction": error,
            "explained": 1 - error / tokens.var(dim=(0, 1), correction=0).mean(),
            "orthogonality": orthogonality.detach(),
            "orthogonality_floor": torch.tensor(self.floor),
            "learning_rate": torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"]),
        }
        # Lightning takes "step" for the axis; its own count begins anew when a run is resumed.
        self.log_dict({"step": float(self.step), **{f"train/{name}": value for name, value in logged.items()}})
        return loss

    def _stop_at(self, batch: Batch, loss: float) -> None:
        paths = self.trainer.datamodule.training_set.paths  # type: ignore[attr-defined]
        file = Path(self.trainer.default_root_dir) / "not_finite.txt"
        with suppress(OutputError):
            if self.trainer.is_global_zero:
                write_text(file, "".join(f"{printable(paths[image])}\n" for image in batch.ids.tolist()))
        raise DataError(
            f"the loss is {loss} at step {self.step}, if not here then in another process; the images of that batch are "
            f"named in {file}. Start anew with a lower phase.learning_rate, or without what is wrong with them"
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the step; at the end of an epoch, log how the slots were used in it."""
        self.step += 1
        if self.step % self.steps_an_epoch:
            return
        usage = self.trainer.strategy.reduce(self.usage, reduce_op="sum") if self.trainer.world_size > 1 else self.usage
        shares = usage / usage.sum().clamp_min(1e-12)
        entropy = -torch.xlogy(shares, shares).sum() / torch.tensor(float(len(shares))).log()
        self.epoch_figures = {"train/dead_slots": float((usage == 0).sum()), "train/usage_entropy": float(entropy)}
        for logger in self.trainer.loggers:  # at once: what is passed to `log` waits for the next row
            logger.log_metrics(self.epoch_figures, step=self.step)
        self.usage = torch.zeros_like(self.usage)
