"""Phase 1: a memory bank learns to rebuild the features of real images from a frozen backbone (paper, Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mirror_pl.detectors.exact import exact_float32
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import ConfigError
from mirror_pl.experiment.batch import Batch
from mirror_pl.experiment.frozen_tokens import frozen_tokens
from mirror_pl.experiment.losses import LossForm, check_form, orthogonality_floor, orthogonality_loss, reconstruction_loss
from mirror_pl.experiment.schedules import cosine_by_epoch
from mirror_pl.experiment.training_module import TrainingModule


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
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"phase.learning_rate must be more than 0, got {self.learning_rate}")
        check_form(self.loss_form)
        for name in ("weight_decay", "orthogonality"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"phase.{name} must be 0 or more, got {getattr(self, name)}")


class MemoryBankModule(TrainingModule):
    """Trains the memory bank of a detector; backbone, normalisation and head stay as they are.

    Logs besides what every training does, at each step: ``train/reconstruction``, the mean squared error an element;
    ``train/explained``, the share of the tokens' variance that it leaves out (1 is all of it); ``train/orthogonality``,
    whose least value is ``train/orthogonality_floor``. At the end of each epoch, over all processes: ``train/dead_slots``,
    slots that no token used in it, and ``train/usage_entropy``, the entropy of the slots' shares in all weights, from 0 (one
    slot) to 1 (all alike); after a run was resumed, since then.

    Args:
        detector: Its bank is trained, in place.
        training: How.
        steps_an_epoch: Batches that make an epoch.
        seed: As for every training; nothing is drawn here.
    """

    def __init__(self, detector: MirrorDetector, training: BankTraining, steps_an_epoch: int, seed: int = 0) -> None:
        super().__init__(detector, steps_an_epoch, seed)
        self.detector.memory_bank.requires_grad_(True)
        self.training_settings = training
        slots, width = detector.memory_bank.memory.shape
        self.floor = orthogonality_floor(slots, width, training.loss_form)
        self.usage = torch.zeros(slots)  # no buffer: DistributedDataParallel would overwrite it with the first process's

    def train(self, mode: bool = True) -> MemoryBankModule:
        """Set train or eval mode of the bank; the frozen parts stay in eval mode."""
        super().train(mode)
        self.detector.eval()
        self.detector.memory_bank.train(mode)
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The bank."""
        return dict(self.detector.memory_bank.named_parameters())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all parameters of the bank."""
        settings = self.training_settings
        parameters = self.detector.memory_bank.parameters()
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def learning_rate(self) -> float:
        """Return that of the epoch."""
        settings = self.training_settings
        return settings.learning_rate * cosine_by_epoch(self.step, self.steps_an_epoch, settings.epochs)

    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return reconstruction plus weighted orthogonality, and what they are made of."""
        bank, settings = self.detector.memory_bank, self.training_settings
        tokens = frozen_tokens(self.detector, batch, batch.ids.device)
        evidence = bank.reconstruct(tokens)
        with exact_float32(tokens.device):  # in bfloat16 the orthogonality of a good bank is nothing but rounding
            reconstruction = reconstruction_loss(tokens, evidence.attended, settings.loss_form)
            orthogonality = orthogonality_loss(bank.memory, settings.loss_form)
            loss = reconstruction + settings.orthogonality * orthogonality
        self.usage = self.usage.to(evidence.usage) + evidence.usage
        error = (evidence.attended - tokens).detach().square().mean()
        return loss, {
            "reconstruction": error,
            "explained": 1 - error / tokens.var(dim=(0, 1), correction=0).mean(),
            "orthogonality": orthogonality.detach(),
            "orthogonality_floor": torch.tensor(self.floor),
        }

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """At the end of an epoch, log how the slots were used in it."""
        if self.step % self.steps_an_epoch:
            return
        usage = self.trainer.strategy.reduce(self.usage, reduce_op="sum") if self.trainer.world_size > 1 else self.usage
        shares = usage / usage.sum().clamp_min(1e-12)
        entropy = -torch.xlogy(shares, shares).sum() / torch.tensor(float(len(shares))).log()
        self.log_epoch({"train/dead_slots": float((usage == 0).sum()), "train/usage_entropy": float(entropy)})
        self.usage = torch.zeros_like(self.usage)
