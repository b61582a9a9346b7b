"""What an operation on pictures is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Operation:
    """An operation with one number to say how strong it is.

    Attributes:
        apply: From an RGB image, a level and random numbers to an RGB image; the first is not changed.
        low: The least level.
        high: The largest.
        unit: What the level is, in words.
        whole: Whether it is a whole number.
        suffix: Of the file that a codec writes, with the dot; empty for what is no codec.
        feature: What Pillow calls the codec that it need not have been built with; empty where it needs none.
    """

    apply: Callable[[Image.Image, float, np.random.Generator], Image.Image]
    low: float
    high: float
    unit: str
    whole: bool = False
    suffix: str = ""
    feature: str = ""
