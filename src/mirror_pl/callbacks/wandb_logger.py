"""How a run on Weights & Biases begins and ends: online where that works, else on this machine; never with a question."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mirror_pl.callbacks.safe_logger import SafeLogger, one_line

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

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
