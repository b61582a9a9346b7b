"""Where the files lie that are shipped with the code: in the installed package, or in the checkout it is run from."""

from __future__ import annotations

from pathlib import Path

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
