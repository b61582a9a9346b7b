"""A signal ends a command with what it has, one line and the exit code that schedulers know; nothing stays behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from golden_set import SMALL

from mirror_pl.jobs.local_processes import _dead, _wait_for_dead
from mirror_pl.locate import miniature_dir
from mirror_pl.stopping import SIGNALS, Stopped, raise_if_stopped

MINIATURE = miniature_dir() / "test"
EVAL = ["mirror_pl.eval", "output_dir=run", "batch_size=4", "trainer.accelerator=cpu", "num_workers=0", "save_every_s=1000"]
TRAIN = [
    "mirror_pl.train", "phase=detector", "backbone=tiny", "detector=direct", f"data.real=[{MINIATURE}/reals]",
    f"data.fake=[{MINIATURE}/shuffle]", "augment.crop_px=32", "batch_size=4", "trainer.accelerator=cpu", "num_workers=1",
    "phase.epochs=2", "output_dir=run", "save_every_steps=1000000",
]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def stop_when(process: subprocess.Popen[str], ready: Callable[[], bool], number: signal.Signals) -> tuple[str, float]:
    """Send one process a signal, and return its errors and how long it took to end; nothing of its group is left."""
    until = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    took = time.monotonic() - sent
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    gone = time.monotonic() + 5
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return errors, took
        assert time.monotonic() < gone, "a process stayed behind"
        time.sleep(0.1)


def go_on(errors: str) -> list[str]:
    """What the line says to go on with, but for the program."""
    (line,) = [line for line in errors.splitlines() if line.startswith("stopped by ")]
    return shlex.split(line.partition("go on with: ")[2])[2:]


@pytest.mark.slow  # `tests/integration/test_resume.py` has a polite stop
def test_an_evaluation_keeps_its_scores() -> None:
    process = start(EVAL)
    errors, _ = stop_when(process, _images_are_scored, signal.SIGTERM)
    arguments = go_on(errors)
    assert arguments[0] == EVAL[0]
    assert {*arguments[-2:]} == {"output_dir=run", "resume=true"}
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True)
    assert "Resumed: " in done.stdout
    facts = json.loads(Path("run/run.json").read_text())
    assert 0 < facts["resumed_after"] < 800
    assert pq.read_table("run/predictions.parquet")["p_fake"].null_count == 0


def _images_are_scored() -> bool:
    """Scores are in memory alone until it stops, so that there is nothing to look at but time."""
    if not Path("run/parts").exists() or not any(Path("run/parts").iterdir()):
        return False
    time.sleep(2)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_during_the_imports(number: signal.Signals) -> None:
    process = start(EVAL)
    assert process.stderr is not None
    assert process.stderr.readline() == "mirror_pl eval: starting\n"
    errors, took = stop_when(process, lambda: True, number)
    assert errors == f"\nstopped by {number.name}\n"
    assert took < 2
    assert not Path("run").exists()


def test_twice_in_a_row() -> None:
    process = start(EVAL)
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    errors, _ = stop_when(process, lambda: True, signal.SIGINT)
    assert errors.strip() == "stopped by SIGINT"


def test_a_stop_is_found_in_what_a_library_made_of_it() -> None:
    def composed() -> None:
        try:
            try:
                raise Stopped(signal.SIGTERM)
            except Stopped as stopped:
                raise KeyError("resolver") from stopped
        except KeyError:
            raise ValueError("composition")  # noqa: B904  # as a context, not as a cause

    with pytest.raises(ValueError, match="composition") as error:
        composed()
    with pytest.raises(Stopped):
        raise_if_stopped(error.value)
    raise_if_stopped(ValueError("another"))


def test_the_first_line_comes_within_a_second() -> None:
    began = time.monotonic()
    process = start(EVAL)
    assert process.stderr is not None
    process.stderr.readline()
    took = time.monotonic() - began
    process.kill()
    process.communicate()
    assert took < 1 or os.getloadavg()[0] > 1.5, took


@pytest.mark.slow  # three commands; `tests/modules` stops trainings in one process
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_saves_its_step(processes: int) -> None:
    several = [f"trainer.devices={processes}", "trainer.strategy=ddp"] if processes > 1 else []
    process = start([*TRAIN, *several])
    log = Path("run/csv")
    errors, _ = stop_when(process, lambda: any(log.rglob("metrics.csv")), signal.SIGTERM)
    done = subprocess.run([sys.executable, "-m", *go_on(errors)], capture_output=True, text=True, check=True)
    assert "Resumed after step " in done.stdout
    whole = subprocess.run([sys.executable, "-m", *TRAIN, *several, "output_dir=whole"], capture_output=True, check=True)
    assert whole.returncode == 0
    stopped, undisturbed = (json.loads(Path(name, "run.json").read_text()) for name in ("run", "whole"))
    assert stopped["resumed_after"]
    assert stopped["steps"] == undisturbed["steps"]
    import torch

    one, two = (torch.load(f"{name}/last.ckpt", weights_only=True)["state_dict"] for name in ("run", "whole"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGINT], ids=lambda number: number.name)
def test_two_processes_end_together(number: signal.Signals) -> None:
    process = start([*EVAL, "trainer.devices=2", "trainer.strategy=ddp", "save_every_s=0.5"])
    parts = Path("run/parts")
    errors, took = stop_when(process, lambda: any(parts.glob("*.parquet")), number)
    assert took < 5
    done = subprocess.run([sys.executable, "-m", *go_on(errors)], capture_output=True, text=True, check=True)
    assert "Resumed: " in done.stdout


@pytest.mark.slow
def test_a_sweep_of_two_processes_per_job(tmp_path: Path) -> None:
    golden = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={SMALL.checkpoint}", "max_bad_fraction=1"]
    several = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "num_workers=0"]
    command = [sys.executable, "-m", "mirror_pl.eval", "-m", *golden, *several, "batch_size=4,8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("outputs/sweeps/eval").glob("*/run.json"))) == 2
    assert done.stdout.count("Report:") == 2


@pytest.mark.parametrize(("code", "exit_code"), [(1, 1), (4, 4), (-9, 1)])
def test_how_a_process_ended_is_said(code: int, exit_code: int) -> None:
    program = f"import time; time.sleep(60 * ({code} < 0)); raise SystemExit({code})"
    process = subprocess.Popen([sys.executable, "-c", program])
    if code < 0:
        process.kill()
    lost = _wait_for_dead([process])
    assert lost is not None
    assert lost.exit_code == exit_code
    assert f"process 1 of 2 {'was ended by SIGKILL' if code < 0 else f'ended with exit code {code}'}" in str(lost)
    well = subprocess.Popen([sys.executable, "-c", ""])
    well.wait()
    assert _dead([well]) is None


def test_where_python_drops_exceptions() -> None:
    """In a finaliser or after a fork a raised `Stopped` is dropped; the process ends all the same, and prints one line."""
    program = (
        "import os, signal, time\n"
        "from mirror_pl.stopping import stopped_by_signals\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.1)\n"
        "with stopped_by_signals('eval'):\n"
        "    Last()\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 143
    assert done.stderr == "\nstopped by SIGTERM\n"
