"""What training a bank and training a detector share, as a LightningModule: optimizer, schedule, steps, checkpoints."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mirror_pl.data.batch import Batch, Flaw
from mirror_pl.data.benchmark import of_all
from mirror_pl.detectors.checkpoint import BackboneSource
from mirror_pl.detectors.checkpoint.fit import misfits
from mirror_pl.detectors.checkpoint.names import our_name, with_our_names
from mirror_pl.detectors.checkpoint.read import CONFIG_KEY
from mirror_pl.detectors.contract import Detector
from mirror_pl.errors import CheckpointError, ConfigError, DataError, OutputError
from mirror_pl.files import write_text
from mirror_pl.texts import printable

OptimizerFactory = Callable[..., Optimizer]
"""Makes an optimizer of parameter groups: ``partial(torch.optim.AdamW, lr=1e-4)``, or ``_partial_: true`` in a config."""
SchedulerFactory = Callable[..., LRScheduler]
"""Makes a schedule of an optimizer, stepped after every optimizer step. One that asks for `steps`, all of the training, and
`steps_per_epoch` is told."""


LOOK_EVERY = 8
"""Batches between two looks at what all processes must agree on: whether losses are finite, and whether to stop."""


class TrainableModule(L.LightningModule, ABC):
    """Trains parts of a detector in place; all others stay as they are.

    Any Trainer of Lightning's does: epochs, accumulation, clipping, precision and callbacks are its matter. A training that
    goes on from a checkpoint (``ckpt_path=``), also from one in the middle of an epoch, ends with the same weights as one
    that was not stopped, to the bit on a CPU: the random numbers of a step, such as those of dropout, follow from seed,
    epoch and batch, and data and schedule from the checkpoint.

    Logs at each step, of this process's batch, ``train/loss`` and what a subclass adds.

    Args:
        detector: Parts of it are trained, in place.
        optimizer: Makes the optimizer.
        scheduler: Makes the schedule of the learning rate.
        backbone: The folder that the frozen backbone's weights come from: checkpoints leave them there. None puts them into
            the checkpoints.
        seed: Of the random numbers drawn in training; 0 or more.

    Attributes:
        flaws: Images that could not be read and were left out, by id; of this process's share, since it was started.
        origin: Where the training comes from, in plain values: part of the checkpoints.
        weights: What tells the frozen backbone's weights from others, where that is known.
        lr: A learning rate in place of the optimizer's, before the schedule; Lightning's learning rate finder sets it.
        began_at: Steps that had been made when the training began, or was gone on with.
    """

    def __init__(
        self,
        detector: Detector,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        backbone: BackboneSource | None,
        seed: int,
    ) -> None:
        super().__init__()
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        self.detector = detector
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.backbone = backbone
        self.weights = None if backbone is None else backbone.sha256
        self.seed = seed
        self.flaws: dict[int, Flaw] = {}
        self.origin: dict[str, Any] = {}
        self._recent: list[tuple[int, Tensor, Tensor]] = []
        self.lr: float | None = None
        self.began_at = 0

    @abstractmethod
    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by this project's names."""

    @abstractmethod
    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch of at least one image, and what else is to be logged."""

    @abstractmethod
    def file_content(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what a checkpoint holds for `load_detector` or `load_bank`, besides what Lightning puts into it.

        Args:
            tensors: The detector's, by our names.
        """

    def progress(self) -> dict[str, int]:
        """Return how far the training is, for a checkpoint."""
        return {"step": self.global_step, "epoch": self.current_epoch}

    def learning_rate_factor(self) -> float:
        """What the optimizer's learning rates are multiplied by, once."""
        return 1.0

    def begin_training(self) -> None:
        """Let gradients reach what is trained, and nothing else, and leave eval mode, which a detector is loaded in."""
        self.train()
        self.detector.requires_grad_(False)
        for parameter in self.trained_parameters().values():
            parameter.requires_grad_(True)

    def setup(self, stage: str) -> None:
        """Begin training, if that is what the trainer does."""
        if stage == "fit":
            self.begin_training()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer, in which what has one dimension, such as biases, does not decay, and the schedule.

        Raises:
            ConfigError: If a setting is none of the optimizer's or the schedule's, or out of its range; or if the schedule
                asks for an end that the trainer does not have.
        """
        parameters = list(self.trained_parameters().values())
        groups: list[dict[str, Any]] = [{"params": [p for p in parameters if p.ndim > 1]}]
        if self.spares_vectors:
            groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0})
        else:
            groups[0]["params"] = parameters
        try:
            optimizer = self.optimizer(groups)
            for group in optimizer.param_groups:
                group["lr"] = self.lr or group["lr"] * self.learning_rate_factor()
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"}}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer and scheduler: {error}") from error

    spares_vectors: ClassVar[bool] = True
    """Whether biases and the like are kept from weight decay."""

    def _schedule(self, optimizer: Optimizer) -> LRScheduler:
        if "steps_per_epoch" not in inspect.signature(self.scheduler).parameters:
            return self.scheduler(optimizer)  # one of torch's
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ConfigError("the schedule asks for the end of the training: give the Trainer max_epochs or max_steps")
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return self.scheduler(optimizer, steps=int(steps), steps_per_epoch=per_epoch)

    def on_train_start(self) -> None:
        """Stop at once, if a training that was stopped early goes on: Lightning restores why, and does not ask."""
        self.began_at = self.global_step
        stoppers: Any = self.trainer.early_stopping_callbacks
        self.trainer.should_stop |= any(stopper.wait_count >= stopper.patience for stopper in stoppers)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw this batch's random numbers from what names it, so that it draws the same whenever it comes."""
        entropy = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            DataError: If it, or that of one of the `LOOK_EVERY` batches before, is not finite; the names of that batch's
                images are kept.
        """
        self.flaws.update((flaw.id, flaw) for flaw in batch.flaws)
        if len(batch.ids):
            loss, logged = self.loss_of(batch)
        else:  # no image of the batch could be read; other processes wait for gradients
            loss = torch.stack([parameter.sum() for parameter in self.trained_parameters().values()]).sum() * 0
            logged = {}
        self._recent.append((self.global_step, loss.detach(), batch.ids))
        if not (batch_idx + 1) % LOOK_EVERY or self.trainer.is_last_batch:
            self._check_losses()
        if len(batch.ids):
            figures = {"loss": loss.detach(), **logged}
            self.log_dict({f"train/{name}": value for name, value in figures.items()}, batch_size=len(batch.ids))
        return loss

    def _check_losses(self) -> None:
        """Look at the losses since the last look: looking at each would have the device wait for the host, step by step."""
        recent, self._recent = self._recent, []
        finite = bool(torch.stack([loss for _, loss, _ in recent]).isfinite().all())
        # All processes stop together: one alone would leave the others waiting for its gradients.
        if self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        mine = [(step, float(loss), ids.tolist()) for step, loss, ids in recent]
        lost = [share for shares in of_all(mine, self.trainer) for share in shares if not math.isfinite(share[1])]
        step, loss, images = min(lost, key=lambda share: share[0])
        paths = self.trainer.datamodule.training_set.paths  # type: ignore[attr-defined]
        file = Path(self.trainer.default_root_dir) / "not_finite.txt"
        with suppress(OutputError):
            if self.trainer.is_global_zero:
                write_text(file, "".join(f"{printable(paths[image])}\n" for image in images))
        raise DataError(
            f"the loss is {loss} at step {step}; the images of that batch are named in {file}. Start anew with "
            "a lower learning rate (optimizer.lr), or without what is wrong with them"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put tensors under our names, and what a file of ours says of them; leave out what is frozen and lies in a folder.

        Raises:
            DataError: If a trained value, or a loss since the last look, is not finite: the checkpoint before stays.
        """
        if self._recent:
            self._check_losses()
        for key in _STATES:
            if key in checkpoint:
                tensors = {
                    name.removeprefix("detector."): tensor
                    for name, tensor in checkpoint[key].items()
                    if name.startswith("detector.")
                }
                content = self.file_content(with_our_names(tensors))
                checkpoint[key] = content.pop("state_dict")
                checkpoint.update(content)
        trained = [our_name(name) for name, parameter in self.detector.named_parameters() if parameter.requires_grad]
        lost = [name for name in trained if not bool(checkpoint["state_dict"][name].isfinite().all())]
        if lost:
            raise DataError(f"{lost[0]} holds values that are not finite: not saved; start anew with a lower optimizer.lr")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Translate our names into those the installed transformers has, and fill in what was left out.

        Raises:
            CheckpointError: If a tensor does not fit this detector, or the checkpoint goes with another backbone.
        """
        ours = checkpoint.get(CONFIG_KEY) or {}
        recorded = (ours.get("backbone") or {}).get("sha256") or (ours.get("bank") or {}).get("weights")
        if recorded is not None and recorded != self.weights:
            raise CheckpointError(
                f"the checkpoint goes with the backbone {recorded}, and leaves its weights where they are; this module's is "
                f"{self.weights or 'not said to be the same'}. Give the same one, as backbone=BackboneSource.of(FOLDER)"
            )
        mine = self.detector.state_dict()
        for key in _STATES:
            if key not in checkpoint:
                continue
            found: Mapping[str, Tensor] = checkpoint[key]
            kept = {our_name(name): (name, tensor) for name, tensor in mine.items()}
            left_out = {name: tensor for name, (_, tensor) in kept.items() if name not in found and self.may_lack(name)}
            problems = misfits({**left_out, **found}, {name: tensor.shape for name, (_, tensor) in kept.items()})
            if problems:
                raise CheckpointError("\n".join(["the checkpoint does not fit this detector", *problems]))
            checkpoint[key] = {f"detector.{kept[name][0]}": tensor for name, tensor in {**left_out, **found}.items()} | {
                name: tensor for name, tensor in self.state_dict().items() if not name.startswith("detector.")
            }

    @abstractmethod
    def may_lack(self, name: str) -> bool:
        """Whether a checkpoint need not hold the tensor of this name, one of ours."""


_STATES = ("state_dict", "current_model_state")
"""Where a checkpoint holds tensors; the second where Lightning's WeightAveraging has put an average in the first's place."""


def check_factories(optimizer: OptimizerFactory, scheduler: SchedulerFactory) -> None:
    """See that an optimizer and a schedule can be made, before weights are loaded for them.

    Raises:
        ConfigError: If a setting is none of theirs, or out of its range.
    """
    try:
        made = optimizer([nn.Parameter(torch.zeros(1))])
        asks = "steps_per_epoch" in inspect.signature(scheduler).parameters
        scheduler(made, **({"steps": 1, "steps_per_epoch": 1} if asks else {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer and scheduler: {error}") from error


def published_adamw(lr: float, weight_decay: float) -> OptimizerFactory:
    """Return what makes the optimizer of the published training code."""
    return partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay)
