"""Who watches the processes of a run: this project alone, since Lightning would kill all of them without a word."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from mirror_pl.callbacks.process_watch import _dead, _take_over, _wait_for_dead
from mirror_pl.errors import EXIT_NOT_WRITTEN


def trainer_of(*codes: int) -> tuple[SimpleNamespace, list[subprocess.Popen[bytes]]]:
    programs = [f"import time; time.sleep(60 * ({code} < 0)); raise SystemExit({code})" for code in codes]
    processes = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    launcher = SimpleNamespace(procs=processes)
    return SimpleNamespace(strategy=SimpleNamespace(launcher=launcher), world_size=len(codes) + 1), processes


def test_lightnings_own_watch_is_left_nothing_to_look_at() -> None:
    trainer, theirs = trainer_of(0, 0)
    _take_over(trainer)
    assert theirs == []
    ours = trainer.strategy.launcher.procs
    assert len(ours) == 2
    _take_over(trainer)
    assert trainer.strategy.launcher.procs is ours
    assert len(ours) == 2
    assert [process.wait() for process in ours] == [0, 0]
    assert _dead(trainer) is None


@pytest.mark.parametrize(("code", "exit_code"), [(1, 1), (4, EXIT_NOT_WRITTEN), (-9, 1)])
def test_how_a_process_ended_is_said(code: int, exit_code: int) -> None:
    trainer, processes = trainer_of(code)
    if code < 0:
        processes[0].kill()
    processes[0].wait()
    lost = _wait_for_dead(trainer)
    assert lost is not None
    assert lost.exit_code == exit_code
    assert f"process 1 of 2 {'was ended by SIGKILL' if code < 0 else f'ended with exit code {code}'}" in str(lost)
