"""Evaluations as tests start them, and what of their folders must be the same when nothing else is."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from golden_set import GoldenSet

OWN = ("config.yaml", "run.json")
"""Files of a run folder that say when and how it was made."""


KEYS = {"chameleon": "Chameleon", "wildrf": "WildRF", "synthwildx": "Synthwildx"}


def golden_overrides(golden: GoldenSet, benchmark: str) -> list[str]:
    return [
        f"benchmark={benchmark}",
        f"data_root={golden.data_root}",
        f"checkpoint={golden.checkpoint}",
        f"backbone.path={golden.backbone_path}",
    ]


def report_of(folder: Path) -> list[dict[str, str]]:
    (path,) = (path for path in folder.glob("*_20*.csv") if "per_class" not in path.name)
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_equal_reports(got: list[dict[str, str]], expected: list[dict[str, str]]) -> None:
    assert [row["Dataset"] for row in got] == [row["Dataset"] for row in expected]
    assert list(got[0]) == list(expected[0])
    for got_row, expected_row in zip(got, expected, strict=True):
        for column in list(expected_row)[1:]:
            assert float(got_row[column]) == pytest.approx(float(expected_row[column]), abs=1e-9), (got_row, column)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def results_of(folder: Path) -> dict[str, bytes]:
    """Every file of a run but `OWN`; the time in a report's name is left out."""
    assert (folder / "run.json").is_file(), f"{folder} is not complete"
    return {
        re.sub(r"_\d{8}_\d{6}", "_TIME", str(path.relative_to(folder))): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OWN
    }


def eval_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mirror_pl.eval", *arguments]


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_parts(process: subprocess.Popen[str], folder: Path, pattern: str = "*.parquet", timeout_s: float = 120) -> bool:
    """Wait until scores are being kept; False if the process has ended before."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if list((folder / "parts").glob(pattern)):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError("no score was kept in time")


def rank_process(group: int, rank: int) -> int | None:
    """Return the process of a rank among those of a process group; None if there is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getpgid(int(entry.name)) == group and f"LOCAL_RANK={rank}\0" in (entry / "environ").read_text():
                return int(entry.name)
        except (OSError, UnicodeDecodeError):
            continue
    return None


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
