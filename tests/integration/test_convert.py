"""From what training wrote to what others use: evaluated as it is, converted, exported; the figures stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from detector_files import save_checkpoint
from golden_set import SMALL

from mirror_pl.config.command import compose
from mirror_pl.detectors import load_detector
from mirror_pl.detectors.checkpoint import BackboneSource, backbone_sha256, read_checkpoint
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.files import path_sha256
from mirror_pl.jobs.convert import run as run_convert
from mirror_pl.jobs.eval import run as run_eval

TRAINING = {"epoch": 4, "data": {"fingerprint": "abc"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL.backbone_path, tmp_path / "dino"))


@pytest.fixture
def best(folder: Path, tmp_path: Path) -> Path:
    """As Phase 2 writes it: without the frozen backbone."""
    path = tmp_path / "best.ckpt"
    detector = load_detector(SMALL.checkpoint, merge=False)
    save_checkpoint(path, detector, backbone=BackboneSource.of(folder), training=TRAINING)
    return path


def evaluate(checkpoint: Path, output: Path, *overrides: str) -> list[float]:
    chosen = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={checkpoint}", f"output_dir={output}"]
    run_eval(compose("eval", [*chosen, "trainer.accelerator=cpu", "num_workers=0", *overrides]))
    return pq.read_table(output / "predictions.parquet")["logit"].to_pylist()


def convert(source: Path, output: Path, *overrides: str) -> Path:
    run_convert(compose("convert", [f"input={source}", f"output={output}", *overrides]))
    return output


def test_what_training_wrote_is_evaluated(best: Path, folder: Path, tmp_path: Path) -> None:
    expected = evaluate(SMALL.checkpoint, tmp_path / "published")
    assert "backbone" not in json.loads((tmp_path / "published" / "run.json").read_text())
    assert evaluate(best, tmp_path / "recorded") == expected
    moved = folder.rename(tmp_path / "moved")
    assert evaluate(best, tmp_path / "given", f"backbone.path={moved}") == expected
    for run, place in (("recorded", folder), ("given", moved)):
        facts = json.loads((tmp_path / run / "run.json").read_text())
        assert facts["backbone"] == {"path": str(place), "sha256": backbone_sha256(moved)}
        assert facts["checkpoint"] == {"path": str(best), "sha256": path_sha256(best)}
    with pytest.raises(CheckpointError, match=r"checkpoint: .*best\.ckpt holds no backbone weights.*backbone_folder=FOLDER"):
        evaluate(best, tmp_path / "lost")
    assert not (tmp_path / "lost" / "run.json").exists()


@pytest.mark.parametrize("output", ["folder", "new/checkpoint.pth", "CHECKPOINT.PTH"])
def test_converted_scores(best: Path, folder: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    unmerged = "detector.merge_lora=false"
    expected = evaluate(best, tmp_path / "before", unmerged)
    sha256 = path_sha256(folder)
    whole, merged = convert(best, tmp_path / output), convert(best, tmp_path / f"merged {output}", "merge_lora=true")
    assert path_sha256(folder) == sha256
    shutil.rmtree(folder)  # what comes out is whole
    assert evaluate(whole, tmp_path / "whole-run", unmerged) == expected
    assert evaluate(merged, tmp_path / "merged-run") == pytest.approx(expected, abs=1e-5)
    said = capsys.readouterr().out
    assert f"and       {folder}, the backbone's weights (sha256 " in said
    assert read_checkpoint(whole).training == TRAINING
    if output == "folder":
        assert json.loads((whole / "config.json").read_text())["training"] == TRAINING
        assert "only mirror_pl" not in said
    else:
        assert torch.load(whole, weights_only=True)["epoch"] == 4
        assert said.count("only mirror_pl can use it") == 1
        assert "no LoRA adapters" in said


def test_a_folder_that_moved(best: Path, folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"input: .* holds no backbone weights"):
        convert(best, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(best, tmp_path / "out", f"backbone.path={moved}")


def test_from_published_to_ours_and_back(tmp_path: Path) -> None:
    """Nothing is known of how a published file was trained, but the epoch."""
    expected = evaluate(SMALL.checkpoint, tmp_path / "before")
    ours = convert(SMALL.checkpoint, tmp_path / "ours")
    assert "training" not in json.loads((ours / "config.json").read_text())
    back = convert(ours, tmp_path / "back.pth")
    assert evaluate(back, tmp_path / "after") == expected
    assert torch.load(convert(SMALL.checkpoint, tmp_path / "same.pth"), weights_only=True)["epoch"] == 3
    before = back.read_bytes()
    with pytest.raises(ConfigError, match=r"back\.pth exists already; nothing is overwritten"):
        convert(ours, back)
    assert back.read_bytes() == before
    half = torch.load(convert(ours, tmp_path / "half.pth", "dtype=bfloat16"), weights_only=True)["model"]
    assert {name for name, tensor in half.items() if tensor.dtype != torch.bfloat16} == {"norm.mean", "norm.std"}
