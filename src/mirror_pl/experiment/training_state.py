"""What a training run needs to go on where it was killed, in one file that is always whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch

from mirror_pl.detectors.checkpoint.torch_file import save_torch
from mirror_pl.errors import CheckpointError, DataError, name_list
from mirror_pl.experiment.training_module import TrainingModule, Validated


class TrainingState(L.Callback):
    """Saves the state every so many steps, after each validation and at the end, and restores the optimizer's.

    The state after a step is all there is: the data's order follows from the step, the learning rate too. So a run that was
    killed and resumed ends with the same weights as one that was not; on a CPU, to the last bit.

    Args:
        path: The file; replaced as a whole each time.
        every_steps: Steps between two saves.
        belongs_to: Values of what the state is good for, such as the fingerprint of the data; see `read_state`.
        resume: What `read_state` returned; None starts anew.
    """

    def __init__(
        self, path: Path, every_steps: int, belongs_to: dict[str, Any], resume: dict[str, Any] | None = None
    ) -> None:
        self.path = path
        self.every_steps = every_steps
        self.belongs_to = belongs_to
        self.resume = resume

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that all processes have the same before them: they share out batches by the images' ids.

        Raises:
            DataError: If they do not.
        """
        assert isinstance(pl_module, TrainingModule)
        if trainer.world_size > 1:
            mine = self.belongs_to | {"step": pl_module.step}
            everyones = [mine] * trainer.world_size
            torch.distributed.all_gather_object(everyones, mine)
            different = [key for key in mine if any(theirs[key] != mine[key] for theirs in everyones)]
            if different:
                raise DataError(
                    f"the processes differ in {name_list(different)}; let copying finish, give all of them the same data, "
                    "weights and output_dir, then start again"
                )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the optimizer, which exists from here on; the module was restored by `restore`."""
        if self.resume is not None:
            trainer.optimizers[0].load_state_dict(self.resume["optimizer"])
            self.resume = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time; and what a validation found, which took long and decided which detector is the best."""
        assert isinstance(pl_module, TrainingModule)
        validated = pl_module.validated and pl_module.validated[-1].step == pl_module.step
        if validated or pl_module.step % self.every_steps == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last state."""
        assert isinstance(pl_module, TrainingModule)
        self._save(trainer, pl_module)

    def _save(self, trainer: L.Trainer, pl_module: TrainingModule) -> None:
        if not trainer.is_global_zero:
            return
        trained = {name: tensor.cpu() for name, tensor in pl_module.trained_state().items()}
        if not all(bool(tensor.isfinite().all()) for tensor in trained.values()):
            return  # nothing to go on from: the state before stays
        state = {
            "step": pl_module.step,
            "belongs_to": self.belongs_to,
            "trained": trained,
            "optimizer": trainer.optimizers[0].state_dict(),
            "validated": [tuple(figures) for figures in pl_module.validated],
        }
        save_torch(self.path, state, replace=True)


def restore(module: TrainingModule, state: dict[str, Any]) -> None:
    """Bring a module to where a state, that `read_state` returned, was saved; all but its optimizer."""
    module.load_trained_state(state["trained"])
    module.step = state["step"]
    module.validated = [Validated(*figures) for figures in state["validated"]]


def read_state(path: Path, belongs_to: dict[str, Any]) -> dict[str, Any] | None:
    """Read a state; None where there is none yet.

    Raises:
        CheckpointError: If the file is no such state, or belongs to something else. It is loaded safely: nothing in it is
            executed.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {key: state[key] for key in ("step", "belongs_to", "trained", "optimizer", "validated")}
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise CheckpointError(
            f"resume: {path} cannot be read ({type(error).__name__}: {error}); start anew without it"
        ) from error
    changed = [key for key, value in belongs_to.items() if state["belongs_to"].get(key) != value]
    if changed:
        raise CheckpointError(
            f"resume: the state in {path} was made with another {name_list(changed)}; start anew without it"
        )
    return state
