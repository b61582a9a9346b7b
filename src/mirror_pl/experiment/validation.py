"""Validation in training: balanced accuracy on named sets, the best step so far, and when to stop for lack of better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch

from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import DataError
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.detector_module import DetectorModule
from mirror_pl.experiment.training_module import TrainingModule, Validated
from mirror_pl.images import UndecodableImageError, decode
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.sources import ImageSource


class Validation(L.Callback):
    """Scores the sets at the ends of epochs, by the detector's own recipe, as an evaluation would.

    Logs ``val/bal_acc/NAME`` for each set, the mean over its subsets, and ``val/bal_acc``, the unweighted mean over sets,
    which decides what is best; fractions in [0, 1], counted exactly over all processes. It runs at the same steps whether or
    not a run was resumed. To be placed before `TrainingState` among the callbacks, which saves what was found.

    Args:
        sets: By name.
        every_epochs: Epochs from one validation to the next; the last step is always validated.
        epochs: Of the whole training.
        patience: Validations in a row without a better one, after which training stops; None never stops it.
        on_best: Called, in the first process only, when the detector is better than at every validation before.
    """

    def __init__(
        self,
        sets: Mapping[str, BenchmarkDataModule],
        every_epochs: int,
        epochs: int,
        patience: int | None = None,
        on_best: Callable[[], None] = lambda: None,
    ) -> None:
        self.sets = dict(sets)
        self.every_epochs = every_epochs
        self.epochs = epochs
        self.patience = patience
        self.on_best = on_best

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate, if it is time."""
        assert isinstance(pl_module, TrainingModule)
        epoch, rest = divmod(pl_module.step, pl_module.steps_an_epoch)
        if rest or (epoch % self.every_epochs and epoch != self.epochs):
            return
        pl_module.eval()
        try:
            figures = {name: _bal_acc(name, data, trainer, pl_module.detector) for name, data in self.sets.items()}
        finally:
            pl_module.train()
            pl_module.restart_clock()
        pl_module.validated.append(Validated(pl_module.step, figures))
        logged = {f"val/bal_acc/{name}": value for name, value in figures.items()}
        pl_module.log_epoch({**logged, "val/bal_acc": pl_module.validated[-1].mean})
        if best(pl_module.validated) is pl_module.validated[-1] and trainer.is_global_zero:
            self.on_best()
        if has_stalled(pl_module.validated, self.patience):
            trainer.should_stop = True


def best(validated: Sequence[Validated]) -> Validated:
    """Return the validation of the highest mean, the first of equals."""
    return max(validated, key=lambda figures: (figures.mean, -figures.step))


def has_stalled(validated: Sequence[Validated], patience: int | None) -> bool:
    """Whether the last `patience` validations were no better than one before them."""
    if patience is None or len(validated) <= patience:
        return False
    return best(validated) not in validated[-patience:]


@torch.inference_mode()
def _bal_acc(name: str, data: BenchmarkDataModule, trainer: L.Trainer, detector: MirrorDetector) -> float:
    data.trainer = trainer  # it shares the images out among the processes
    data.use_recipe(detector.spec)
    scorer = DetectorModule(detector, data.index.subsets, torch.from_numpy(data.index.members()))
    scorer.to(trainer.strategy.root_device)
    finite = True
    for number, batch in enumerate(data.test_dataloader()):
        with trainer.precision_plugin.forward_context():
            scores = scorer.test_step(trainer.strategy.batch_to_device(batch), number)
        finite &= bool(scores["logit"].isfinite().all())
    if not trainer.strategy.reduce_boolean_decision(finite, all=True):  # no verdict counts as "real"
        raise DataError(
            f"validation.{name}: the detector's scores are not finite; start anew with a lower phase.learning_rate"
        )
    return float(scorer.balanced_accuracy.compute().mean())


def check_set(name: str, data: BenchmarkDataModule) -> None:
    """See that every subset has an image of each class that can be read, before hours are spent on what it is to judge.

    Args:
        name: For messages.
        data: The set.

    Raises:
        DataError: If one has not, or nothing is on disk.
    """
    index = data.index
    for subset, member in zip(index.subsets, index.members(), strict=True):
        for label in (REAL, FAKE):
            images = np.flatnonzero(member[index.group_ids] & (index.labels == label))
            if not any(_can_be_read(index.source(int(image))) for image in images):
                raise DataError(
                    f"validation.{name}: none of the {len(images)} {LABEL_NAMES[label]} images of subset {subset} in "
                    f"{index.data_root} can be read; balanced accuracy needs both classes"
                )


def _can_be_read(source: ImageSource) -> bool:
    try:
        decode(source)
    except UndecodableImageError:
        return False
    return True
