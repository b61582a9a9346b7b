"""The two classes, said once: real = 0, fake = 1; fake is the positive class everywhere."""

from __future__ import annotations

from typing import Final

REAL: Final = 0
FAKE: Final = 1
LABEL_NAMES: Final = ("real", "fake")
