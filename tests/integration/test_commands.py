"""The commands as a user starts them: exit codes, one-screen errors, the default from anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import SMALL

from mirror_pl.config.command import _report, compose
from mirror_pl.errors import CheckpointError, ConfigError, OutputError
from mirror_pl.jobs.convert import run as convert
from mirror_pl.miniature import WorldSpec
from mirror_pl.start import start as start_command


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_the_default_runs_anywhere_and_says_what_it_is() -> None:
    done = start("mirror_pl.eval")
    assert done.returncode == 0, done.stderr
    assert "none for the real world" in done.stdout
    assert "Traceback" not in done.stderr
    (run,) = Path("outputs/eval/miniature").iterdir()
    assert (run / "run.json").is_file()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["miniature"]
    bal_acc = {row["subset"]: row["metrics"]["bal_acc"] for row in metrics["subsets"]}
    held_out = bal_acc.pop(WorldSpec().held_out)
    assert sum(bal_acc.values()) / len(bal_acc) >= 0.95, "learnt, on scenes that nothing was trained on"
    assert held_out >= 0.88
    assert [path.name for path in Path().iterdir()] == ["outputs"], "nothing else is left behind"


GOLDEN = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={SMALL.checkpoint}"]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["benchmark=genimge"], 2, "Did you mean genimage?"),
        (["bach_size=3"], 2, "Did you mean batch_size?"),
        pytest.param(
            [*GOLDEN, "logger=wandb", "output_dir=w"],
            0,
            "there is no key for W&B",  # no error: the run is kept offline
            marks=pytest.mark.slow,
        ),
        (["checkpoint=bomb.pth"], 2, "would run code"),
    ],
)
def test_errors_take_one_screen(arguments: list[str], code: int, expected: str) -> None:
    torch.save({"model": Bomb()}, "bomb.pth")
    done = start("mirror_pl.eval", *arguments, WANDB_MODE="online", WANDB_API_KEY="")
    assert done.returncode == code
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 25


def test_an_error_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert _report(ConfigError("a\x1b[2J\u202e\x9b1m\nerror: b")) == 2
    assert capsys.readouterr().err == "error: a\\x1b[2J\\u202e\\x9b1m\n  error: b\n", "nor passes for another message"


def test_a_shortfall_is_an_exit_code_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "data/Chameleon/test"
    for label in ("0_real", "1_fake"):
        (folder / label).mkdir(parents=True)
        (folder / label / "x.jpg").write_text("no image")
    done = start(
        "mirror_pl.eval", "benchmark=chameleon", "backbone=miniature", f"data_root={tmp_path / 'data'}", "output_dir=out"
    )
    assert done.returncode == 3
    assert "none of the 2 images could be decoded" in done.stderr
    assert Path("out/run.json").is_file()


def test_convert_says_what_it_did() -> None:
    done = start("mirror_pl.convert", f"input={SMALL.checkpoint}", "output=out", "merge_lora=true", "dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    for expected in ("backbone  tiny", "6 LoRA adapters merged", "bfloat16", "tensors   "):
        assert expected in done.stdout
    assert {path.stat().st_mode & 0o777 for path in Path("out").iterdir()} == {0o644}
    assert start("mirror_pl.convert", "input=nowhere").returncode == 2


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([f"input={SMALL.checkpoint}", "output=here"], ConfigError, "here exists already"),
        (["input=nowhere", "output=new"], CheckpointError, "input: nowhere does not exist"),
        ([f"input={SMALL.checkpoint}", "output=file/new"], OutputError, "cannot be written"),
        ([f"input={SMALL.checkpoint}", "output=new", "dtype=int8"], ConfigError, "dtype must be"),
    ],
)
def test_convert_refuses(overrides: list[str], error: type[Exception], message: str) -> None:
    Path("here").mkdir()
    Path("file").touch()
    with pytest.raises(error, match=message):
        convert(compose("convert", overrides))
    assert not Path("new").exists()


def test_the_list_of_commands() -> None:
    done = start("mirror_pl")
    assert done.returncode == 0
    for command in ("eval", "convert"):
        assert f"  {command} " in done.stdout
        shown = start(f"mirror_pl.{command}", "--help")
        assert shown.returncode == 0
        assert "backbone" in shown.stdout


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("eval", ["checkpoint=nowhere.pth"], "nowhere.pth does not exist; give another one with checkpoint=..."),
        ("eval", ["detector=dda"], "detector=dda wants DDA_ckpt.pth (docs/other-detectors.md)"),
        ("eval", ["benchmark=wildrf", "data_root=nowhere"], "data_root: nowhere does not exist"),
        (
            "train",
            ["data.real=[nowhere]"],
            "data.real: nowhere does not exist; give a folder of images as data.real=[FOLDER]",
        ),
        ("eval", ["resume=true"], "resume=true: which run? Give its folder too: output_dir=FOLDER"),
        ("eval", ["benchmark", "=", "wildrf"], "benchmark: a setting is written as key=value"),
        ("eval", ["--benchmark=wildrf"], "--benchmark=wildrf: a setting is written as key=value"),
        ("report", [], "give run folders, or a folder above them: mirror-pl report outputs/eval"),
        (
            "train",
            ["phase=memory", "checkpoint=miniature", "backbone=miniature", "data.real=[.]"],
            "checkpoint: phase=memory does not use it",
        ),
        ("eval", ["pictures"], "pictures: a setting is written as key=value"),
    ],
)
def test_what_is_wrong_with_a_command_line(
    command: str, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with pytest.raises(SystemExit) as end:
        start_command(command)
    assert end.value.code == 2
    assert said in capsys.readouterr().err
