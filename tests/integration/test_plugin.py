"""A detector of another package, as docs/adding-a-detector.md has it: installed, and used by commands and by Python."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mirror_pl
from mirror_pl.locate import CHECKOUT, miniature_dir

DOCS = CHECKOUT / "docs/adding-a-detector.md"
VERSION = "sharpness-1.0"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place that pip has installed the package into, from a wheel."""
    folder = tmp_path_factory.mktemp("plugin")
    points = block("toml").replace("project.entry-points.", "").replace('"', "")
    wheel = folder / f"{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("sharpness/__init__.py", block("python"))
        info = f"{VERSION}.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: sharpness\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", points)
        archive.writestr(f"{info}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*pip, str(wheel)], check=True)
    save_file({"weight": torch.full((1, 3, 3, 3), 0.1)}, folder / "sharpness.safetensors")
    return folder


def called(installed: Path, *command: str, packages: bool = True) -> subprocess.CompletedProcess[str]:
    source = str(Path(mirror_pl.__file__).parents[1])
    path = os.pathsep.join([*([str(installed / "site")] if packages else []), source])
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )


def test_eval_predict_and_report_use_it(installed: Path, tmp_path: Path) -> None:
    cpu = ["trainer.accelerator=cpu", "num_workers=0", "~callbacks.progress"]
    named = ["detector=sharpness", f"checkpoint={installed}/sharpness.safetensors", "+detector.gain=2"]
    done = called(installed, "-m", "mirror_pl.eval", *named, *cpu, f"output_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["detector"]["name"] == "Sharpness"

    by_class = ["detector._target_=sharpness.Sharpness", "trust=sharpness", *named[1:]]
    done = called(installed, "-m", "mirror_pl.eval", *by_class, *cpu, f"output_dir={tmp_path}/again")
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / name / "predictions.parquet").read_bytes() for name in ("run", "again"))
    assert first == second

    # Whose code may run, a run folder does not say: it may be somebody else's.
    done = called(installed, "-m", "mirror_pl.eval", f"repeat={tmp_path}/again", f"output_dir={tmp_path}/no", *cpu)
    assert done.returncode == 2
    assert "if you trust that, give trust=sharpness" in done.stderr

    done = called(
        installed, "-m", "mirror_pl.predict", str(miniature_dir() / "test"), f"output={tmp_path}/scores.csv", *named,
        "device=cpu", "num_workers=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(rows) > 100
    code = (
        "import sys; from mirror_pl import load_detector; from sharpness import Sharpness;"
        "print(load_detector(sys.argv[1], detector=Sharpness, gain=2).predict(sys.argv[2]).logit)"
    )
    done = called(installed, "-c", code, f"{installed}/sharpness.safetensors", rows[0]["image_path"])
    assert float(done.stdout) == pytest.approx(float(rows[0]["logit"]), abs=1e-6), done.stderr

    done = called(
        installed, "-m", "mirror_pl.report", f"{tmp_path}/run", f"output_dir={tmp_path}/report", "replicates=20",
        packages=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Sharpness" in (tmp_path / "report/table.csv").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["detector=sharpnes"], "there is no such detector. Did you mean sharpness?"),
        (["detector=sharpness"], "checkpoint: not given. detector=sharpness wants sharpness.safetensors"),
        (
            ["detector._target_=sharpness.Sharpness"],
            "runs the code of the package sharpness; if you trust that, give trust=",
        ),
        (["detector._target_=sharpness.Blur", "trust=sharpness"], "cannot be imported: module 'sharpness' has no attribute"),
        (["detector._target_=os.system", "trust=os"], "is no subclass of mirror_pl.detectors.Detector"),
        (["detector=sharpness", "+detector.gian=2"], "detector.gian: Sharpness has no such setting. Did you mean gain?"),
        (["detector=sharpness", "memory_path=x"], "detector=sharpness has no memory bank"),
    ],
)
def test_what_is_wrong_is_said(installed: Path, tmp_path: Path, command: list[str], said: str) -> None:
    weights = [] if command == ["detector=sharpness"] else [f"checkpoint={installed}/sharpness.safetensors"]
    done = called(installed, "-m", "mirror_pl.eval", *command, *weights, f"output_dir={tmp_path}/run")
    assert done.returncode == 2
    assert said in done.stderr
