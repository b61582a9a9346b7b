"""Sweeps: each detector loaded once, failures that stay alone, and a second call that finds what is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_set import SMALL
from sweeps import Call

from mirror_pl.config.command import compose
from mirror_pl.config.sweep import data_last, job_name, without_folder


def start(*arguments: str, timeout_s: float = 280, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mirror_pl.eval", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | environment,
    )


GOLDEN = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={SMALL.checkpoint}"]


def test_settings_of_the_data_vary_fastest() -> None:
    given = ["benchmark=a,b", "backbone=x,y", "data_root=d", "backbone.path=p", "+benchmark.title=t", "checkpoint=c"]
    assert data_last(given) == [
        "backbone=x,y", "backbone.path=p", "checkpoint=c", "benchmark=a,b", "data_root=d", "+benchmark.title=t",
    ]  # fmt: skip


def test_a_jobs_folder_is_named_after_what_its_scores_depend_on() -> None:
    def name(*overrides: str) -> str:
        return job_name(compose("eval", [*GOLDEN, *overrides]))

    assert name().startswith("wildrf-checkpoint-h-cur-")
    assert name() == name("num_workers=3", "logger=csv", "output_dir=x", "resume=true", "trainer.devices=2", "cache_dir=c")
    others = [name(), name("batch_size=3"), name("trainer.precision=bf16-mixed"), name("checkpoint=b.pth"), name("reals=r")]
    assert len(set(others)) == len(others)
    assert name("backbone=dinov3_l", "checkpoint=a b.pth").startswith("wildrf-dinov3_l-")


def test_a_sweep_has_a_folder_for_each_job_and_goes_on_past_failures(sweep: Call) -> None:
    checkpoints = f"checkpoint=nowhere.pth,{SMALL.checkpoint}"
    done = sweep("-m", *GOLDEN[:2], checkpoints, "output_dir=sweep")
    assert done.returncode == 2
    (run,) = Path("sweep").glob("*/run.json")
    assert "nowhere.pth does not exist" in done.stderr
    assert "1 of the sweep's jobs failed" in done.stderr
    assert "exit code 2: " in done.stderr
    assert "benchmark=wildrf" in done.stderr
    before = {path: path.stat().st_mtime_ns for path in run.parent.iterdir()}
    again = sweep("-m", *GOLDEN, "output_dir=sweep")
    assert again.returncode == 0, again.stderr
    assert f"Complete already: {run.parent}" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in run.parent.iterdir()} == before


def test_a_sweep_in_each_of_several_processes_is_refused() -> None:
    refused = start("-m", "batch_size=4,64", WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert refused.returncode == 2
    assert "each of its 2 processes would run the whole sweep" in refused.stderr
    assert not list(Path().iterdir())


def test_a_sweep_over_benchmarks_of_which_some_are_absent(sweep: Call) -> None:
    done = sweep("-m", *GOLDEN[1:], "benchmark=genimage,wildrf")
    assert done.returncode == 0, done.stderr
    assert "absent: genimage - " in done.stdout
    (run,) = Path("outputs/sweeps/eval").glob("*/run.json")
    assert run.parent.name.startswith("wildrf-")
    assert sweep("-m", *GOLDEN[1:], "benchmark=genimage,cospy", "require_all=true").returncode == 3


def test_a_glob_stands_for_benchmarks() -> None:
    assert without_folder("benchmark=glob(*)") == "benchmark=glob([*],exclude=[folder])"
    assert without_folder("benchmark=glob([a*,b],exclude=miniature)") == "benchmark=glob([a*,b],exclude=[miniature,folder])"
    for other in ("benchmark=glob([folder,wildrf])", "benchmark=wildrf,folder", "backbone=glob(*)", "data_root=glob(x)"):
        assert without_folder(other) == other


@pytest.mark.slow
def test_all_benchmarks_in_a_folder_with_none(sweep: Call) -> None:
    Path("data").mkdir()
    everything = sweep("-m", "benchmark=glob(*,exclude=miniature)", GOLDEN[2])
    assert everything.returncode == 0, everything.stderr
    assert everything.stdout.count("absent: ") == 26
    assert [path.name for path in Path("outputs/sweeps/eval").iterdir()] == ["multirun.yaml"]


def write_data(root: Path) -> Path:
    """Four benchmarks: the golden two, and the same pictures as two more."""
    golden = SMALL.data_root
    root.mkdir()
    (root / "WildRF").symlink_to(golden / "WildRF")
    (root / "Chameleon").symlink_to(golden / "Chameleon")
    for place, source in (("AIGIBench/SocialRF", "facebook"), ("AIGIBench/CommunityAI", "reddit"), ("B-Free", "twitter")):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).symlink_to(golden / "WildRF/test" / source)
    return root


def write_checkpoint(path: Path, seed: int) -> Path:
    """The golden detector with another head."""
    content = torch.load(SMALL.checkpoint, weights_only=False)
    generator = torch.Generator().manual_seed(seed)
    weight = content["model"]["detector.head.3.weight"]
    weight += torch.randn(weight.shape, generator=generator) * 0.1
    torch.save(content, path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_detectors_on_four_benchmarks_twice(tmp_path: Path, sweep: Call) -> None:
    root = write_data(tmp_path / "data")
    checkpoints = [write_checkpoint(tmp_path / f"{name}.pth", seed) for seed, name in enumerate("abc")]
    settings = [f"data_root={root}", f"output_dir={tmp_path / 'out'}"]
    arguments = [
        "-m", "benchmark=wildrf,chameleon,aigibench,bfree_online", f"checkpoint={','.join(map(str, checkpoints))}", *settings,
    ]  # fmt: skip
    # One job fails: where its folder should be is a file.
    failing = (
        tmp_path / "out" / job_name(compose("eval", ["benchmark=chameleon", f"checkpoint={checkpoints[1]}", *settings]))
    )
    failing.parent.mkdir()
    failing.touch()
    first = sweep(*arguments)
    assert first.returncode == 4, first.stderr
    assert len(list((tmp_path / "out").glob("*/run.json"))) == 11
    assert "1 of the sweep's jobs failed" in first.stderr
    assert "is a file" in first.stderr
    assert first.stdout.count("not loaded again") == 8, "each detector is loaded once"
    failing.unlink()
    second = sweep(*arguments)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("Complete already") == 11
    assert second.stdout.count("Report:") == 1
    third = sweep(*arguments)
    assert third.returncode == 0, third.stderr
    assert third.stdout.count("Complete already") == 12
    assert "Report:" not in third.stdout
    assert len(list((tmp_path / "out").glob("*/run.json"))) == 12


@pytest.mark.slow
def test_jobs_in_processes_of_their_own(tmp_path: Path) -> None:
    """The local half of the launcher that runs jobs on a Slurm cluster: failures come back from other processes."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = [
        "-m", *GOLDEN[:2], f"checkpoint=nowhere.pth,{SMALL.checkpoint}", f"output_dir={tmp_path / 'out'}",
        "hydra/launcher=submitit_local", "trainer.accelerator=cpu",
    ]  # fmt: skip
    done = start(*sweep)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(list((tmp_path / "out").glob("*/run.json"))) == 1
    assert "1 of the sweep's jobs failed" in done.stderr
    assert "nowhere.pth" in done.stderr
    (run,) = (tmp_path / "out").glob("*/run.json")
    stamp = run.stat().st_mtime_ns
    again = start(*sweep[:2], *sweep[2:3], f"checkpoint={SMALL.checkpoint}", *sweep[4:])
    assert again.returncode == 0, again.stdout + again.stderr
    assert run.stat().st_mtime_ns == stamp
