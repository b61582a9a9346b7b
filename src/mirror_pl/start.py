"""What a command begins with: signals and a first line, before its imports, which take seconds."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from mirror_pl import __version__
from mirror_pl.stopping import STARTED_BY_US, Stopped, end_with_parent, say_stopped, stopped_by_signals

if TYPE_CHECKING:
    from omegaconf import DictConfig


_INPUTS: Final = {"predict": "input", "report": "runs", "gallery": "runs", "calibrate": "runs"}
"""The setting that plain paths on the command line are, see `take_paths`."""
_QUESTIONS: Final = {"--hydra-help", "--cfg", "-c", "--info", "-i", "--resolve"}


def start(name: str) -> None:
    """Run a command with the command line, and end the process with its exit code.

    A signal that asks to stop, also one during the imports, is one line and an exit code. Other errors than those of ours
    keep their traceback.
    """
    if {"--help", "-h"} & {*sys.argv[1:]}:
        from mirror_pl.config.help import help_text, print_patiently

        print_patiently(help_text(name, sys.argv[1:]))
        return
    if "--version" in sys.argv[1:]:
        print(f"mirror_pl {__version__}")  # noqa: T201
        return
    # Read when torch is imported. Threads of libgomp wait for one another by looping, 300,000 times by default: beside other
    # work, that takes the time from the very thread that they wait for (docs/performance.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for library in ("torchao", "torch.utils._pytree"):  # transformers imports the first, which has remarks on its own files
        logging.getLogger(library).setLevel(logging.ERROR)
    is_first = STARTED_BY_US not in os.environ
    with stopped_by_signals(name, quietly=not is_first):
        try:
            if not is_first:
                end_with_parent()
            elif not _QUESTIONS & {*sys.argv[1:]} and not any(argument.startswith("-sc") for argument in sys.argv[1:]):
                print(f"mirror_pl {name}: starting", file=sys.stderr, flush=True)  # noqa: T201
            from mirror_pl.config.command import named_settings, run_command
            from mirror_pl.config.early import check_early
            from mirror_pl.config.schema import read_command_settings

            def main(cfg: DictConfig) -> None:
                read_command_settings(cfg, name)
                check_early(cfg)
                # Only now: torch and Lightning take seconds, and a wrong setting is to be answered at once.
                run = import_module(f"mirror_pl.jobs.{name}").run
                run(cfg, named_settings()) if name == "eval" else run(cfg)

            run_command(name, main, inputs=_INPUTS.get(name))
        except Stopped as stopped:
            raise SystemExit(say_stopped(stopped)) from None
