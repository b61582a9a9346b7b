"""Lightning's loggers, which may fail: the run goes on without. The run folder is the record; dashboards mirror it."""

from __future__ import annotations

import os
import shlex
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import nn

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


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


MODES: Final = ("online", "offline", "disabled")
"""What ``logger.wandb.mode`` may be, besides null."""

LOCAL_MODES: Final = ("offline", "dryrun", "disabled")
"""Modes in which nothing leaves this machine; "dryrun" is W&B's old word for "offline"."""


class SafeWandbLogger(SafeLogger):
    """Lightning's WandbLogger, whose run is kept on this machine where W&B cannot be reached.

    Args:
        build: Makes the WandbLogger for a mode, one of `MODES`; nothing is started by that.
        name: What ``logger=`` calls it, for messages.
        mode: What the settings ask for; None leaves it to WANDB_MODE, to W&B's own settings, and to whether there is a key.
    """

    def __init__(self, build: Callable[[str | None], Logger], name: str, mode: str | None) -> None:
        super().__init__(build(mode), name)
        self._build = build
        self._asked = mode
        self._run: Any = None

    @property
    def run(self) -> Any:
        """The run on W&B, or on its way there; None where there is none: not started, failed, or disabled."""
        return None if self.failed or self._run is None or self._run.settings.mode == "disabled" else self._run

    def _begin(self) -> None:
        mode, why_not = self._choose_mode()
        if mode not in LOCAL_MODES:
            try:
                self._start_as(mode)
                return
            except Exception as error:  # W&B's errors, and those of what it is made of
                why_not = f"W&B cannot be used online ({one_line(error)})"
        self._start_as("disabled" if mode == "disabled" else "offline")
        if why_not:
            self.warn(f"{why_not}; this run is kept on this machine. To upload it: {upload_command(self._run)}")

    def _start_as(self, mode: str) -> None:
        self.logger = self._build(mode)
        self._run = self.logger.experiment  # type: ignore[attr-defined]

    def _choose_mode(self) -> tuple[str, str | None]:
        """Return the mode to start in and, where that is not what was asked for, why.

        W&B asks for a key on the terminal where it is to run online and finds none. It must not come to that: a job in a
        queue would wait forever.
        """
        if self._asked in LOCAL_MODES:
            return self._asked, None
        import wandb

        if self._asked is not None:  # or else W&B, when it looks for a key, would go by WANDB_MODE
            wandb.setup(wandb.Settings(mode=self._asked))  # type: ignore[arg-type]  # it checks
        mode = wandb.setup().settings.mode  # WANDB_MODE, or what `wandb offline` has written down; else "online"
        if mode in LOCAL_MODES:
            return mode, None
        try:
            # Looks into the environment, W&B's settings and netrc, and asks nobody for a key.
            if wandb.login(prompt=False, verify=False):
                return mode, None
        except Exception as error:
            return "offline", f"the key for W&B cannot be used ({one_line(error)})"
        wanted = self._asked is not None or "WANDB_MODE" in os.environ
        return "offline", "there is no key for W&B (`wandb login`, or WANDB_API_KEY)" if wanted else None

    def finish(self, exit_code: int) -> str | None:
        """End the run on W&B with the job's exit code, within ``logger.wandb.settings.finish_timeout``.

        A run that was not ended would take in what a sweep's next job logs.

        Returns:
            For a run that is not on W&B, or not in full, how to upload it.
        """
        super().finish(exit_code)
        run, self._run = self._run, None
        if run is None:
            return None
        mode, command = run.settings.mode, upload_command(run)
        ended = self._end(run, exit_code)
        if mode == "disabled" or (ended and mode not in LOCAL_MODES):
            return None
        return f"W&B has not got this run; to upload it: {command}"

    def _end(self, run: Any, exit_code: int) -> bool:
        """End a run, also one that has failed before; say whether that went well."""
        try:
            run.finish(exit_code=exit_code)
            return True
        except Exception as error:
            if not self.failed:
                self.warn(f"the run on W&B did not end well ({one_line(error)})")
            if not isinstance(error, TimeoutError):  # after finish_timeout, W&B has let go of the run itself
                _forget()
            return False


def upload_command(run: Any) -> str:
    """Return the command that uploads what is on this machine of a run."""
    return f"wandb sync {shlex.quote(str(Path(run.dir).parent.resolve()))}"


def _forget() -> None:
    """Let go of a run that cannot be ended, and of W&B's helper process, which may be gone: the next run needs others."""
    import wandb

    with suppress(Exception):
        wandb.teardown()
    wandb.run = None
