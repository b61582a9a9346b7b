"""A Lightning logger that may fail: the run goes on without it. The run folder is the record, dashboards mirror it."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import nn

Result = TypeVar("Result")


class SafeLogger(Logger):
    """Passes everything on to a logger until that raises; then it warns, once, and goes quiet.

    Args:
        logger: The real one. It is started when `start` is called, or its `experiment` is first asked for.
        name: What ``logger=`` calls it, for messages.

    Attributes:
        logger: The real one.
        failed: Whether it has failed, and is left alone since.
    """

    def __init__(self, logger: Logger, name: str) -> None:
        super().__init__()
        self.logger = logger
        self.option = name
        self.failed = False

    def attempt(self, work: Callable[[], Result]) -> Result | None:
        """Do something with the logger, and return its result; None where that, or something before it, has failed."""
        if self.failed:
            return None
        try:
            return work()
        except Exception as error:  # each logger has errors of its own, and none is worth a result
            self.failed = True
            self.warn(f"{type(self.logger).__name__} failed ({one_line(error)}); the run goes on without it")
            return None

    def warn(self, message: str) -> None:
        """Warn of something that the run goes on in spite of."""
        warnings.warn(f"logger={self.option}: {message}", stacklevel=3)

    def start(self) -> None:
        """Start the logger, so that what prevents it is known before anything is computed."""
        self.attempt(self._begin)

    def _begin(self) -> None:
        getattr(self.logger, "experiment", None)  # made when it is first asked for

    def finish(self, exit_code: int) -> str | None:
        """Write what is still to be written, and let go of the logger, so that a sweep's next job starts anew.

        Args:
            exit_code: What the job ends with; 0 if all is well.

        Returns:
            What there is to be said to the user, if anything.
        """
        self.finalize("success" if exit_code == 0 else "failed")
        return None

    @property
    def experiment(self) -> Any:
        """What the logger writes to; once it has failed, an object that takes everything and does nothing."""
        experiment = self.attempt(lambda: getattr(self.logger, "experiment", None))
        return _Silent() if experiment is None else experiment

    @property
    def name(self) -> str | None:
        """Return the name of the logger behind it."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """Return the version of the logger behind it."""
        return self.logger.version

    @property
    def root_dir(self) -> str | None:
        """Return the folder above all versions of the logger behind it."""
        return self.logger.root_dir

    @property
    def log_dir(self) -> str | None:
        """Return the folder that the logger behind it writes to."""
        return self.logger.log_dir

    @property
    def save_dir(self) -> str | None:
        """Return the folder that the logger behind it was given."""
        return self.logger.save_dir

    @property
    def group_separator(self) -> str:
        """Return what the logger behind it puts between the groups of a figure's name."""
        return self.logger.group_separator

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures."""
        self.attempt(lambda: self.logger.log_metrics(dict(metrics), step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log settings."""
        self.attempt(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Log the model."""
        self.attempt(lambda: self.logger.log_graph(model, input_array))

    def save(self) -> None:
        """Write what was logged."""
        self.attempt(lambda: self.logger.save())

    def finalize(self, status: str) -> None:
        """Write what was logged at the end of one of Lightning's loops, or of the job."""
        self.attempt(lambda: self.logger.finalize(status))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Log a checkpoint of Lightning's."""
        self.attempt(lambda: self.logger.after_save_checkpoint(checkpoint_callback))


def one_line(error: BaseException) -> str:
    """Say what went wrong in one line, with the error's name where it says no more than that."""
    return " ".join(str(error).split()) or type(error).__name__


class _Silent:
    """Takes whatever is called on it, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> None:
        """Do nothing."""
