"""The photographs that the miniature world is cut from, and which of them are kept for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mirror_pl.errors import DataError, name_list
from mirror_pl.images import UndecodableImageError, decode

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

PHOTOGRAPHS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "astronaut",
        "brick",
        "coffee",
        "coins",
        "grass",
        "hubble_deep_field",
        "immunohistochemistry",
        "raccoon",
        "retina",
    ),
    "val": ("camera",),
    "test": ("ascent", "chelsea", "gravel", "rocket"),
}
"""Names of the photographs of each split. No two splits share one: a test shows scenes that nothing was trained on."""


def read_photographs(folder: Path, split: Split) -> dict[str, NDArray[np.uint8]]:
    """Read the photographs of a split.

    Args:
        folder: Holds ``NAME.jpg`` for each name of `PHOTOGRAPHS`.
        split: Which of them.

    Returns:
        By name, in the order of `PHOTOGRAPHS`, ``(H, W, 3)`` uint8, RGB.

    Raises:
        DataError: If one is missing or cannot be read.
    """
    files = {name: folder / f"{name}.jpg" for name in PHOTOGRAPHS[split]}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise DataError(
            f"miniature: {folder} has no {name_list(missing)}; expected the photographs that come with this project, in a "
            "checkout data/miniature/photographs (git checkout data/miniature brings back what was deleted)"
        )
    return {name: _read(file) for name, file in files.items()}


def _read(file: Path) -> NDArray[np.uint8]:
    try:
        decoded = decode(file)
    except UndecodableImageError as error:
        raise DataError(_damaged(file, str(error))) from error
    if decoded.flaw:
        raise DataError(_damaged(file, decoded.flaw))
    return np.array(decoded.image)


def _damaged(file: Path, reason: str) -> str:
    return f"miniature: {file} is damaged ({reason}); git checkout data/miniature brings it back"
