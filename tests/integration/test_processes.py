"""Several processes give what one gives: integers equal, scores equal, nothing padded, and no report where one is lost."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from golden_set import SMALL
from runs import eval_command, free_port, results_of

from mirror_pl.config.command import compose
from mirror_pl.jobs.eval import run

COMMON = [
    f"checkpoint={SMALL.checkpoint}", "trainer.accelerator=cpu", "num_workers=0", "data.index_cache=null", "max_bad_fraction=1",
]  # fmt: skip


def wildrf(*more: str) -> list[str]:
    return ["benchmark=wildrf", f"data_root={SMALL.data_root}", *COMMON, *more]


def alone(output: Path, arguments: list[str]) -> Path:
    run(compose("eval", [*arguments, f"output_dir={output}"]))
    return output


def assert_same(several: Path, one: Path) -> None:
    """The published report to the last digit; scores but for what the number of threads does to float32 sums."""
    (report,), (expected,) = (list(folder.glob("*_20*.csv")) for folder in (several, one))
    assert report.read_text() == expected.read_text()
    first, second = (pq.read_table(folder / "predictions.parquet") for folder in (several, one))
    for name in ("id", "path", "subset", "label", "status"):
        assert first[name].equals(second[name]), name
    for a, b in zip(first["p_fake"].to_pylist(), second["p_fake"].to_pylist(), strict=True):
        assert (a is None) == (b is None)
        assert a is None or abs(a - b) < 1e-6
    assert (several / "bad_images.csv").read_text() == (one / "bad_images.csv").read_text()


def run_all(commands: list[list[str]], environments: list[dict[str, str]]) -> list[str]:
    processes = [
        subprocess.Popen(c, env=os.environ | e, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c, e in zip(commands, environments, strict=True)
    ]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed


@pytest.mark.parametrize(
    ("ranks", "batch_size"), [(2, 4), pytest.param(3, 4, marks=pytest.mark.slow), pytest.param(3, 1, marks=pytest.mark.slow)]
)
def test_the_golden_report(tmp_path: Path, ranks: int, batch_size: int) -> None:
    arguments = wildrf(f"batch_size={batch_size}")
    (printed,) = run_all(
        [eval_command(*arguments, f"trainer.devices={ranks}", "trainer.strategy=ddp", f"output_dir={tmp_path / 'out'}")],
        [{}],
    )
    assert printed.count("Report:") == 1
    assert_same(tmp_path / "out", alone(tmp_path / "one", arguments))
    (report,) = (tmp_path / "out").glob("wildrf_*.csv")
    for got, expected in zip(csv.DictReader(report.open()), SMALL.report("WildRF"), strict=True):
        assert all(abs(float(got[name]) - float(value)) < 1e-9 for name, value in list(expected.items())[1:])


@pytest.mark.slow  # three processes; `ShareOfBatches` has a property test
def test_fewer_images_than_processes_and_a_bad_one(tmp_path: Path) -> None:
    """Two images for three processes: one of them cannot be read, and a process has none at all."""
    for label in ("0_real", "1_fake"):
        (tmp_path / "data/Chameleon/test" / label).mkdir(parents=True)
    shutil.copy(
        next((SMALL.data_root / "Chameleon/test/0_real").glob("*.jpg")), tmp_path / "data/Chameleon/test/0_real/a.jpg"
    )
    (tmp_path / "data/Chameleon/test/1_fake/b.jpg").write_text("no image")
    arguments = ["benchmark=chameleon", f"data_root={tmp_path / 'data'}", *COMMON, "batch_size=1"]
    run_all([eval_command(*arguments, "trainer.devices=3", f"output_dir={tmp_path / 'out'}")], [{}])
    one = alone(tmp_path / "one", arguments)
    assert_same(tmp_path / "out", one)
    assert pq.read_table(one / "predictions.parquet")["status"].to_pylist() == ["ok", "undecodable"]


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun(tmp_path: Path, nodes: int) -> None:
    """Two processes started by torchrun: on one node, or one on each of two."""
    arguments = wildrf("batch_size=4", f"output_dir={tmp_path / 'out'}", "trainer.strategy=ddp")
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}"]
    launch += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    commands = [
        [*launch, f"--node-rank={node}", "-m", "mirror_pl.eval", *arguments, f"trainer.devices={2 // nodes}", f"trainer.num_nodes={nodes}"]
        for node in range(nodes)
    ]  # fmt: skip
    printed = run_all(commands, [{}] * nodes)
    assert sum(text.count("Report:") for text in printed) == 1
    assert_same(tmp_path / "out", alone(tmp_path / "one", wildrf("batch_size=4")))
    # Called again, every process sees that there is nothing to do.
    before = results_of(tmp_path / "out")
    again = run_all([[*command, "resume=true"] for command in commands], [{}] * nodes)
    assert sum(text.count("Complete already") for text in again) == 1
    assert results_of(tmp_path / "out") == before


@pytest.mark.slow
def test_slurm(tmp_path: Path) -> None:
    """What srun would start, with the variables that it sets: two tasks on two nodes."""
    command = eval_command(
        *wildrf(
            "batch_size=4",
            f"output_dir={tmp_path / 'out'}",
            "trainer.strategy=ddp",
            "trainer.devices=1",
            "trainer.num_nodes=2",
        )
    )
    shared = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mirror", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2",
        "SLURM_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    tasks = [{"SLURM_PROCID": str(n), "SLURM_LOCALID": "0", "SLURM_NODEID": str(n)} for n in range(2)]
    printed = run_all([command] * 2, [shared | task for task in tasks])
    assert sum(text.count("Report:") for text in printed) == 1
    assert_same(tmp_path / "out", alone(tmp_path / "one", wildrf("batch_size=4")))
