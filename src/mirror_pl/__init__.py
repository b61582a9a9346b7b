"""mirror_pl: detect AI-generated images by reference comparison, and compare detectors.

Importing the package loads nothing heavy: each public name is fetched when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirror_pl.data import BenchmarkDataModule, TrainingDataModule
    from mirror_pl.detectors import load_detector
    from mirror_pl.explanation import explain
    from mirror_pl.modules import DetectorModule, MemoryBankModule

try:
    __version__ = version("mirror_pl")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

_ROOMS = {
    "BenchmarkDataModule": "data",
    "DetectorModule": "modules",
    "MemoryBankModule": "modules",
    "TrainingDataModule": "data",
    "explain": "explanation",
    "load_detector": "detectors",
}
__all__ = [
    "BenchmarkDataModule",
    "DetectorModule",
    "MemoryBankModule",
    "TrainingDataModule",
    "__version__",
    "explain",
    "load_detector",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
