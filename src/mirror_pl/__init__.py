"""mirror_pl: detect AI-generated images by reference comparison, and compare detectors.

Importing the package loads nothing heavy; `load_detector` is fetched when it is first asked for.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirror_pl.detectors import load_detector

try:
    __version__ = version("mirror_pl")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__", "load_detector"]


def __getattr__(name: str) -> Any:
    if name == "load_detector":
        from mirror_pl.detectors import load_detector

        return load_detector
    raise AttributeError(f"module 'mirror_pl' has no attribute {name!r}")
