"""What a run was made with, and when: versions, machine, source revision, times."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


PACKAGES = ("mirror_pl", "torch", "lightning", "transformers", "peft", "torchmetrics", "hydra-core", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that touches a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, str]:
    """Return a short description of the machine."""
    return {"system": platform.platform(), "processor": platform.processor() or platform.machine(), "python": sys.executable}


def device_name(device: torch.device) -> str:
    """Return the device with its product's name, as in "cuda:0 (NVIDIA H100)"."""
    if device.type != "cuda":
        return str(device)
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def git_revision() -> str | None:
    """Return the commit of the checkout this code runs from, with "-dirty" after changes; None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class Clock:
    """Runs from when it is made.

    Attributes:
        started: When the run was started; for one that goes on, when it was first.
    """

    def __init__(self) -> None:
        self.started = datetime.now().astimezone()
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self._seconds[part], self._last = now - self._last, now

    def facts(self) -> dict[str, Any]:
        """Return it for ``run.json``."""
        finished = datetime.now().astimezone()
        return {"started": self.started.isoformat(), "finished": finished.isoformat(), "seconds": self._seconds}
