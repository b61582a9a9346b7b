"""``mirror-pl COMMAND`` and ``python -m mirror_pl COMMAND``: what ``python -m mirror_pl.COMMAND`` is too."""

from __future__ import annotations

import os
import runpy
import sys
from typing import Final

from mirror_pl import __version__
from mirror_pl.errors import EXIT_NOT_STARTED, nearest

COMMANDS: Final = (
    "predict", "eval", "robustness", "report", "gallery", "calibrate", "train", "app", "serve", "convert", "check_data",
    "weights",
)  # fmt: skip
"""In the order in which they are listed."""


def main() -> None:
    """Run the command that the first argument names; without one, list them."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in ("-sc", "--shell-completion"):
        if not (rest and rest[0].partition("=")[0] in ("install", "uninstall", "query")):
            print(f'error: {first}: give a shell too, as in eval "$(mirror-pl {first} install=bash)"', file=sys.stderr)
            raise SystemExit(EXIT_NOT_STARTED)
        _complete()
    elif first in ("--version", "-V"):
        print(f"mirror_pl {__version__}")
    elif first in ("--help", "-h"):
        from mirror_pl.config.help import what_it_does

        print("mirror-pl COMMAND [setting=value]...\n")
        for name in COMMANDS:
            print(f"  {name:<12}{what_it_does(name)}")
        print("\nmirror-pl COMMAND --help lists its settings. mirror-pl --version says which version this is.")
    elif first in COMMANDS:
        # As `python -m` runs it, so that whatever starts further processes finds the command again.
        sys.argv = [sys.argv[0], *rest]
        runpy.run_module(f"mirror_pl.{first}", run_name="__main__", alter_sys=True)
    else:
        print(
            f"error: {first}: there is no such command.{nearest(first, COMMANDS)} Known: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_NOT_STARTED)


def _complete() -> None:
    """Answer the shell, through Hydra: which command is meant is the second word of the line."""
    from mirror_pl.start import start

    line = os.environ.get("COMP_LINE", "")
    program, _, line = line.lstrip().partition(" ")
    command, space, line = line.lstrip().partition(" ")
    if program and not (space and command in COMMANDS):
        print(" ".join(name for name in COMMANDS if name.startswith(command)))
        return
    os.environ["COMP_LINE"] = f"{program} {line}"
    start(command or COMMANDS[0])


if __name__ == "__main__":
    main()
