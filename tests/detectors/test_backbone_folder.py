"""Backbone weights from a Hugging Face folder: all or nothing, and the same features as the published detector's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden_set import SMALL, GoldenSet
from safetensors.torch import load_file, save_file

from mirror_pl.detectors import MirrorDetector, load_detector
from mirror_pl.detectors.checkpoint import load_backbone, save_bank
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.errors import CheckpointError, OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL.backbone_path, tmp_path / "dino"))


@torch.inference_mode()
def test_the_published_backbone_without_its_adapters(golden: GoldenSet, golden_detector: MirrorDetector) -> None:
    backbone = load_backbone(golden.backbone_path)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    ours, theirs = backbone.state_dict(), golden_detector.backbone.state_dict()
    names = {name.replace(".base_layer.", "."): name for name in theirs if "lora" not in name}
    assert ours.keys() == names.keys()
    for name, adapted in names.items():
        assert torch.equal(ours[name], theirs[adapted]), name
    assert backbone(torch.rand(2, 3, 224, 224)).tokens.isfinite().all()


def test_shards(folder: Path) -> None:
    whole = load_backbone(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded = load_backbone(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(CheckpointError, match="names files outside its folder"):
        load_backbone(folder)


def _without_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop(sorted(tensors)[0])


def _with_another(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layer.9.norm1.weight"] = torch.zeros(3)


def _with_another_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[sorted(tensors)[0]] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [(_without_one, "misses"), (_with_another, "holds the unknown"), (_with_another_shape, "has other shapes in")],
)
def test_what_does_not_fit_is_named(folder: Path, change: object, message: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)  # type: ignore[operator]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"backbone_folder: .* {message}"):
        load_backbone(folder)


def test_damaged_or_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_backbone(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights are read from safetensors only"):
        load_backbone(folder)


def test_a_saved_bank_is_the_published_format(golden: GoldenSet, golden_detector: MirrorDetector, tmp_path: Path) -> None:
    """A detector loads with the bank that was written from it, and the file holds what the published one holds."""
    path = tmp_path / "memory_bank.pth"
    save_bank(path, golden_detector.memory_bank, golden_detector.config, weights="x", epoch=3)
    load_detector(golden.checkpoint, backbone=read_backbone_folder(golden.backbone_path), memory_path=path)
    ours, published = (torch.load(file, weights_only=True) for file in (path, golden.memory_path))
    assert ours["epoch"] == 3
    strip = {
        name.removeprefix("module.").removeprefix("memory_bank."): part
        for name, part in published["model_state_dict"].items()
    }
    assert ours["model_state_dict"].keys() == strip.keys()
    if "memory_config" in published:
        assert ours["memory_config"] == published["memory_config"]
    with pytest.raises(OutputError, match="nothing is overwritten"):
        save_bank(path, golden_detector.memory_bank, golden_detector.config, weights="x", epoch=4)
