"""Phase 2: LoRA and the head of a detector learn to tell real from fake, around a bank that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirror_pl.detectors.checkpoint.names import is_adapter, our_name
from mirror_pl.detectors.exact import exact_float32, float32_products
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import ConfigError
from mirror_pl.experiment.batch import Batch
from mirror_pl.experiment.schedules import warm_up_then_cosine
from mirror_pl.experiment.training_module import TrainingModule

LEARNING_RATE_BATCH = 256
"""Images a batch that `DetectorTraining.learning_rate` is for; it grows and shrinks with the batch (released code)."""


@dataclass(frozen=True)
class DetectorTraining:
    """How Phase 2 learns; the defaults are those of the released code.

    Attributes:
        epochs: Times that every image is seen.
        learning_rate: Of a batch of `LEARNING_RATE_BATCH` images, after the warm-up.
        warm_up_epochs: Epochs in which it rises from 0.
        last_learning_rate: Where the half cosine after that ends, whatever the batch.
        weight_decay: Of the weights; biases have none.
        label_smoothing: Share of the label that is spread over both classes.
        retrieval_gradient: Let gradients flow through the retrieval into LoRA; see `MirrorDetector.judge`.
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    warm_up_epochs: float = 1.0
    last_learning_rate: float = 1e-6
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    retrieval_gradient: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"phase.epochs must be at least 1, got {self.epochs}")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"phase.learning_rate must be more than 0, got {self.learning_rate}")
        for name in ("warm_up_epochs", "last_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"phase.{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"phase.label_smoothing must be at least 0 and less than 1, got {self.label_smoothing}")


class DetectorTrainingModule(TrainingModule):
    """Trains LoRA and the head of a detector; the backbone's own weights, the bank and the normalisation stay as they are.

    The loss is the cross-entropy of the two class logits, which is the binary cross-entropy of their difference, the
    paper's. Logs ``train/accuracy`` besides what every training does: the share of the batch on the right side, as the model
    in training, with dropout, has it.

    Args:
        detector: Trained in place.
        training: How.
        steps_an_epoch: Batches that make an epoch.
        batch_size: Images a batch, all processes together; the learning rate is scaled by it.
        seed: Of dropout.
    """

    def __init__(
        self, detector: MirrorDetector, training: DetectorTraining, steps_an_epoch: int, batch_size: int, seed: int = 0
    ) -> None:
        super().__init__(detector, steps_an_epoch, seed)
        self.training_settings = training
        self.peak_learning_rate = training.learning_rate * batch_size / LEARNING_RATE_BATCH
        for parameter in self.trained_parameters().values():
            parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> DetectorTrainingModule:
        """Set train or eval mode of backbone and head; the bank stays in eval mode.

        In train mode the backbone computes the same features, as it has no dropout, unless its config asks for
        `rope_rescale`.
        """
        super().train(mode)
        if self.detector.config.memory_bank is not None:
            self.detector.memory_bank.eval()
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """LoRA and the head, by this project's names."""
        named = {our_name(name): parameter for name, parameter in self.detector.named_parameters()}
        return {name: named[name] for name in named if name.startswith("head.") or is_adapter(name)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; what has one dimension, which is biases, does not decay."""
        parameters = list(self.trained_parameters().values())
        decay = self.training_settings.weight_decay
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.peak_learning_rate)

    def learning_rate(self) -> float:
        """Return that of the step."""
        settings = self.training_settings
        peak = self.peak_learning_rate
        last = min(settings.last_learning_rate / peak, 1.0)
        return peak * warm_up_then_cosine(self.step, self.steps_an_epoch, settings.epochs, settings.warm_up_epochs, last)

    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy, and the accuracy."""
        settings = self.training_settings
        with float32_products(batch.pixels.device, tf32=False):
            judged = self.detector.judge(batch.pixels.float() / 255, retrieval_gradient=settings.retrieval_gradient)
        logits = judged.class_logits
        with exact_float32(logits.device):
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=settings.label_smoothing)
        return loss, {"accuracy": (logits.detach().argmax(dim=1) == batch.labels).float().mean()}
