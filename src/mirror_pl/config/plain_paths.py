"""Plain paths on a command line: ``mirror_pl.report a b level=0.9`` is ``runs=[a,b] level=0.9``, whatever is in a path.

They reach the settings as one text, in which OmegaConf finds nothing to interpolate, as it does in a list: a name may hold
``${``, and may be ``???``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mirror_pl.errors import ConfigError

_taken: list[str] = []


def take_paths(arguments: Sequence[str], setting: str, is_setting: Callable[[str], bool]) -> list[str]:
    """Keep the plain paths before the first ``key=value`` or option, for `paths_token`, and return the rest.

    Args:
        arguments: Of the command line.
        setting: What the paths are the value of.
        is_setting: Whether a key is one of the command's; else ``key=value`` is a path, if it exists.

    Raises:
        ConfigError: If a path comes later, or `setting` is given as well.
    """

    def is_path(argument: str) -> bool:
        key, equals, _ = argument.partition("=")
        assigns = bool(equals) and (is_setting(key) or not Path(argument).exists())
        return argument == "-" or not (argument.startswith("-") or assigns)

    count = next((n for n, argument in enumerate(arguments) if not is_path(argument)), len(arguments))
    _taken[:], rest = arguments[:count], list(arguments[count:])
    late = [argument for argument in rest if "=" not in argument and not argument.startswith("-")]
    if late and not any(argument in TAKE_A_VALUE for argument in rest):
        raise ConfigError(f"{late[0]}: paths come before the first key=value or option; or give {setting}=[...]")
    if _taken and any(argument.startswith(f"{setting}=") for argument in rest):
        raise ConfigError(f"{setting}: given as paths and as {setting}=; give one of the two")
    return rest


TAKE_A_VALUE: Final = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--info",
)
"""Hydra's options whose value may stand apart."""


def paths_token() -> str:
    """Return the paths that were taken last as one text: what configs call ``${inputs:}``."""
    return json.dumps(_taken).replace("$", "\\u0024")


def paths_in(token: str) -> list[str] | None:
    """Return the paths of a `paths_token`; None where a text is something else."""
    try:
        paths = json.loads(token)
    except ValueError:
        return None
    return paths if isinstance(paths, list) and all(isinstance(path, str) for path in paths) else None
