"""Where files and classes are: those shipped with the code, in the package or the checkout, and those of other packages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]


def config_dir() -> Path:
    """Return the folder of the Hydra configs.

    Raises:
        FileNotFoundError: If neither place has it, naming both.
    """
    return _first_with("eval.yaml", PACKAGE / "configs", CHECKOUT / "configs")


def miniature_dir() -> Path:
    """Return the folder of the miniature, the embedded default: ``photographs/``, the ``test/`` set, and its ``detector/``.

    Raises:
        FileNotFoundError: If neither place has it, naming both.
    """
    return _first_with("photographs", PACKAGE / "miniature_data", CHECKOUT / "data/miniature")


def _first_with(name: str, *folders: Path) -> Path:
    for folder in folders:
        if (folder / name).exists():
            return folder
    places = " nor ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"mirror_pl is not installed completely: no {name} in {places}; install it again")


@cache
def registered_detectors() -> Mapping[str, EntryPoint]:
    """Return the detectors that installed packages register, by name; of two of one name, ours, or else the first."""
    points = sorted(entry_points(group=DETECTORS), key=lambda point: (not point.value.startswith("mirror_pl."), point.value))
    return {point.name: point for point in reversed(points)}


DETECTORS: Final = "mirror_pl.detectors"
"""The group of entry points, each of which names a class."""
