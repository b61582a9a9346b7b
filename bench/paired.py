"""What all measurements share: ways taken in turn in one run, medians, and the machine's own ceilings."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """The machine in words."""
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{cpu}, torch {torch.__version__}"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each way; see `all_seconds_of`."""
    return {name: statistics.median(values) for name, values in all_seconds_of(ways, repeats, device, warm_up).items()}


def all_seconds_of(
    ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, round by round. They are taken in turn, so that a busy minute falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(warm_up + repeats):
        for name, way in ways.items():
            synchronise(device)
            start = time.perf_counter()
            way()
            synchronise(device)
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def matrix_ceiling(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations/s of a large matrix product of random numbers, TF32 off."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of({"product": lambda: left @ right}, repeats, device, warm_up=2)["product"]


def copy_ceiling(device: torch.device, repeats: int = 5) -> float:
    """Bytes/s, read and written, of a large copy."""
    source = torch.randint(0, 255, (2**30 if device.type == "cuda" else 2**27,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of({"copy": lambda: target.copy_(source)}, repeats, device, warm_up=2)["copy"]


def resident_bytes(field: str) -> int:
    """Resident memory of this process: "VmRSS" now, "VmHWM" at its peak since that was reset (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")
