"""What a plain statement of an operation is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plain = Callable[[NDArray[np.uint8], float, np.random.Generator], NDArray[Any]]


@dataclass(frozen=True)
class Statement:
    """An operation in other words, in SciPy, in Pillow on files, or pixel by pixel.

    Attributes:
        plain: From pixels ``(H, W, 3)``, a level and a generator of the same state to pixels; fractions are rounded, and what is
            out of range is cut.
        levels: To compare at.
        off: The largest difference allowed, in 255ths.
        share: Of values that may differ at all.
        mean: The largest mean difference.
        reason: Of the tolerance.
        neutral: The level that returns the image itself; None if there is none.
    """

    plain: Plain
    levels: tuple[float, ...]
    off: int = 0
    share: float = 1
    mean: float = 255
    reason: str = ""
    neutral: float | None = None


FLOAT32: dict[str, Any] = {
    "off": 1,
    "share": 0.001,
    "reason": "float32, where the statement has float64, may round to the other side of a half",
}
