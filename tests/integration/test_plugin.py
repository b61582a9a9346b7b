"""A detector of another package, as docs/adding-a-detector.md has it: installed, and used by commands and by Python."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mirror_pl
from mirror_pl import load_detector
from mirror_pl.config.command import compose
from mirror_pl.detectors import Detector, Verdict
from mirror_pl.errors import ConfigError, MirrorError
from mirror_pl.images import PreprocessSpec
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import report as reporting
from mirror_pl.locate import CHECKOUT, miniature_dir, registered_detectors

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


def called(installed: Path, *command: str) -> None:
    source = str(Path(mirror_pl.__file__).parents[1])
    path = os.pathsep.join([str(installed / "site"), source])
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def here(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package is installed for this process too."""
    monkeypatch.syspath_prepend(str(installed / "site"))
    registered_detectors.cache_clear()
    yield installed
    sys.modules.pop("sharpness", None)
    registered_detectors.cache_clear()


CPU = ["trainer.accelerator=cpu", "num_workers=0", "~callbacks.progress"]


def test_eval_and_predict_use_it(here: Path, tmp_path: Path) -> None:
    """As commands; and by its class, in eval and in Python."""
    named = ["detector=sharpness", f"checkpoint={here}/sharpness.safetensors", "+detector.gain=2"]
    called(here, "mirror_pl.eval", *named, *CPU, f"output_dir={tmp_path}/run")
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["detector"]["name"] == "Sharpness"
    by_class = ["detector._target_=sharpness.Sharpness", "trust=sharpness", *named[1:]]
    evaluation.run(compose("eval", [*by_class, *CPU, f"output_dir={tmp_path}/again"]))
    first, second = ((tmp_path / name / "predictions.parquet").read_bytes() for name in ("run", "again"))
    assert first == second

    # Whose code may run, a run folder does not say: it may be somebody else's.
    with pytest.raises(MirrorError, match="if you trust that, give trust=sharpness"):
        evaluation.run(compose("eval", [f"repeat={tmp_path}/again", f"output_dir={tmp_path}/no", *CPU]))
    named_again = [f"repeat={tmp_path}/again", f"output_dir={tmp_path}/yes", "trust=sharpness"]
    evaluation.run(compose("eval", [*named_again, *CPU]))

    pictures = sorted((miniature_dir() / "test").rglob("*.jpg"))[:5]
    more = [f"output={tmp_path}/scores.csv", "device=cpu", "num_workers=0"]
    called(here, "mirror_pl.predict", *map(str, pictures), *named, *more)
    with (tmp_path / "scores.csv").open() as file:
        found = [float(row["logit"]) for row in csv.DictReader(file)]
    kind: Any = import_module("sharpness").Sharpness
    detector = load_detector(here / "sharpness.safetensors", detector=kind, gain=2)
    assert [prediction.logit for prediction in detector.predict(pictures)] == pytest.approx(found, abs=1e-6)


def test_a_report_of_its_run_does_not_need_it(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = ["detector=sharpness", f"checkpoint={here}/sharpness.safetensors"]
    evaluation.run(compose("eval", [*named, *CPU, f"output_dir={tmp_path}/run"]))
    monkeypatch.setitem(sys.modules, "sharpness", None)
    reporting.run(compose("report", [f"runs=[{tmp_path}/run]", f"output_dir={tmp_path}/report", "replicates=20"]))
    assert "Sharpness" in (tmp_path / "report/table.csv").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["detector=sharpnes"], r"there is no such detector\. Did you mean sharpness\?"),
        (["detector=sharpness"], r"checkpoint: not given\. detector=sharpness wants sharpness\.safetensors"),
        (
            ["detector._target_=sharpness.Sharpness"],
            "runs the code of the package sharpness; if you trust that, give trust=",
        ),
        (["detector._target_=sharpness.Blur", "trust=sharpness"], "cannot be imported: module 'sharpness' has no attribute"),
        (["detector._target_=os.system", "trust=os"], r"is no subclass of mirror_pl\.detectors\.Detector"),
        (["detector=sharpness", "+detector.gian=2"], r"detector\.gian: Sharpness has no such setting\. Did you mean gain\?"),
        (["detector=sharpness", "memory_path=x"], "detector=sharpness has no memory bank"),
    ],
)
def test_what_is_wrong_is_said(here: Path, tmp_path: Path, command: list[str], said: str) -> None:
    weights = [] if command == ["detector=sharpness"] else [f"checkpoint={here}/sharpness.safetensors"]
    with pytest.raises(MirrorError, match=said) as caught:
        evaluation.run(compose("eval", [*command, *weights, *CPU, f"output_dir={tmp_path}/run"]))
    assert caught.value.exit_code == 2


def test_a_class_without_load_is_only_built_in_python(tmp_path: Path) -> None:
    class Bare(Detector):
        def score(self, pixels: torch.Tensor) -> Verdict:
            logit = pixels.mean(dim=(1, 2, 3))
            return Verdict(logit, logit.sigmoid(), {})

    with pytest.raises(ConfigError, match=r"Bare cannot be loaded from .*: it has no classmethod load"):
        load_detector(tmp_path, detector=Bare)
    with pytest.raises(ConfigError, match=r"gain: detector=Bare has no such setting\. It has: none"):
        load_detector(tmp_path, detector=Bare, gain=2)
    bare = Bare(PreprocessSpec()).eval()
    assert "0 parameters, float32 on cpu, eval mode" in repr(bare)
    assert bare.predict(Image.new("RGB", (300, 300), "white")).logit == pytest.approx(1)
