"""What training writes: a detector whole, or without the frozen weights, which are then looked for and made sure of."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_files import save_checkpoint
from golden_set import SMALL, GoldenSet
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirror_pl.detectors import HeadConfig, MirrorDetector, load_detector
from mirror_pl.detectors.checkpoint import (
    BackboneSource,
    backbone_folder,
    backbone_sha256,
    backbone_source,
    load_backbone,
    read_checkpoint,
    read_detector,
    save_folder,
)
from mirror_pl.detectors.checkpoint.torch_file import save_torch
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.errors import CheckpointError, OutputError
from mirror_pl.files import path_sha256

TRAINING = {"epoch": 4, "data": ["a", "b"], "figures": {"train/loss": 0.25, "val": None}, "resumed": False}


@pytest.fixture
def folder(golden: GoldenSet, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden.backbone_path, tmp_path / "dino"))


@pytest.fixture
def partial(golden_detector: MirrorDetector, folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "best.ckpt"
    save_checkpoint(path, golden_detector, backbone=BackboneSource.of(folder), training=TRAINING)
    return path


def logits(detector: MirrorDetector, golden: GoldenSet) -> Tensor:
    with torch.inference_mode():
        return detector(golden.pixels()[:4]).logit


def error_of(path: Path, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_detector(path, **kwargs)
    return str(caught.value)


def test_a_file_without_the_frozen_weights_comes_back(
    partial: Path, folder: Path, golden: GoldenSet, golden_detector: MirrorDetector
) -> None:
    again = load_detector(partial, merge=False)
    assert again.config == golden_detector.config
    state = golden_detector.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert torch.equal(logits(again, golden), logits(golden_detector, golden))
    whole = load_detector(golden.checkpoint, backbone=golden_detector.config.backbone)
    merged = load_detector(partial)
    assert merged.config.lora is None
    assert torch.equal(logits(merged, golden), logits(whole, golden))
    assert partial.stat().st_size < golden.checkpoint.stat().st_size


def test_the_file_is_safe_plain_and_holds_what_was_trained(partial: Path, folder: Path) -> None:
    content = torch.load(partial, weights_only=True)
    assert content.keys() == {"state_dict", "mirror_pl"}
    assert content["mirror_pl"]["backbone"] == {"path": str(folder), "sha256": backbone_sha256(folder)}
    assert content["mirror_pl"]["training"] == TRAINING
    assert {name.split(".")[0] for name in content["state_dict"]} == {"normalise", "backbone", "memory_bank", "head"}
    inside = [name for name in content["state_dict"] if name.startswith("backbone.")]
    assert inside
    assert all(name.endswith((".lora_a", ".lora_b")) for name in inside)


def test_a_whole_file_needs_no_folder(tmp_path: Path, golden: GoldenSet, golden_detector: MirrorDetector) -> None:
    path = tmp_path / "new" / "whole.ckpt"
    save_checkpoint(path, golden_detector, backbone=None, training=TRAINING)
    assert backbone_source(path) is None
    assert read_checkpoint(path).training == TRAINING
    again = load_detector(path, merge=False)
    assert torch.equal(logits(again, golden), logits(golden_detector, golden))
    # A folder gives the architecture only, as for any other whole file.
    load_detector(path, backbone_folder=golden.backbone_path)
    load_detector(golden.checkpoint, backbone_folder=golden.backbone_path)
    with pytest.raises(OutputError, match="nothing is overwritten"):
        save_checkpoint(path, golden_detector, backbone=None, training={})
    save_checkpoint(path, golden_detector, backbone=None, training={}, replace=True)
    assert read_checkpoint(path).training == {}
    assert [file.name for file in path.parent.iterdir()] == ["whole.ckpt"]


def test_a_folder_that_moved(partial: Path, folder: Path, golden: GoldenSet, golden_detector: MirrorDetector) -> None:
    moved = folder.rename(folder.parent / "elsewhere")
    message = error_of(partial)
    assert f"checkpoint: {partial} holds no backbone weights" in message
    assert f"there is no config.json in {folder}" in message
    assert f"with sha256 {backbone_sha256(moved)}" in message
    assert "backbone_folder=FOLDER" in message
    again = load_detector(partial, merge=False, backbone_folder=moved)
    assert torch.equal(logits(again, golden), logits(golden_detector, golden))
    assert backbone_source(partial, moved) == BackboneSource(moved, backbone_sha256(moved))


def test_a_recorded_path_that_cannot_be_asked_for(tmp_path: Path, small_detector: MirrorDetector) -> None:
    """As on another machine, or in a folder that is closed to this user."""
    save_checkpoint(
        tmp_path / "x.ckpt", small_detector, backbone=BackboneSource(Path("/", "x" * 300), "0" * 64), training={}
    )
    assert "holds no backbone weights" in error_of(tmp_path / "x.ckpt")


@pytest.mark.parametrize("given", [True, False])
def test_another_backbone_is_refused(partial: Path, folder: Path, given: bool) -> None:
    expected = backbone_sha256(folder)
    other = folder
    if given:
        other = Path(shutil.copytree(folder, folder.parent / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors[min(tensors)] += 1e-3
    save_file(tensors, other / "model.safetensors")
    message = error_of(partial, backbone_folder=other if given else None)
    assert f"the backbone in {other} is another one than {partial} was trained with" in message
    assert f"expected sha256 {expected} (then in {folder}), got {backbone_sha256(other)}" in message
    assert "backbone_folder=FOLDER" in message


def test_a_named_architecture_must_agree(tmp_path: Path, small_detector: MirrorDetector) -> None:
    path = tmp_path / "x.ckpt"
    detector = load_detector(SMALL.checkpoint, merge=False)
    save_checkpoint(path, detector, backbone=BackboneSource.of(SMALL.backbone_path), training={})
    load_detector(path, backbone=known_backbone("tiny"))
    assert "another was asked for" in error_of(path, backbone=known_backbone("dinov3_b"))
    # Random position coordinates are a matter of training.
    detector.config = replace(detector.config, backbone=replace(detector.config.backbone, rope_rescale=2.0))
    save_checkpoint(path, detector, backbone=BackboneSource.of(SMALL.backbone_path), training={}, replace=True)
    load_detector(path, backbone=known_backbone("tiny"))
    load_detector(path, backbone_folder=SMALL.backbone_path)
    assert "another was asked for" in error_of(path, backbone=known_backbone("dinov2_l"))


def test_merging_reaches_no_file(partial: Path, folder: Path) -> None:
    before = {path: path_sha256(path) for path in (partial, folder)}
    merged = load_detector(partial)
    expected = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    with torch.no_grad():
        for tensor in merged.state_dict().values():
            tensor.zero_()
    assert {path: path_sha256(path) for path in before} == before
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_detector(partial).state_dict().items())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells by Linux's list of mappings")
def test_the_folders_weights_stay_mapped(partial: Path, folder: Path) -> None:
    detector = load_detector(partial)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    mapped = [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]
    outside = [
        name
        for name, tensor in detector.backbone.state_dict().items()
        if not any(tensor.data_ptr() in part for part in mapped)
    ]
    assert not outside


def test_half_precision_on_disk_is_merged_in_float32(tmp_path: Path) -> None:
    """As training had it: in float32, like all weights."""
    folder = Path(shutil.copytree(SMALL.backbone_path, tmp_path / "half"))
    halves = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    detector = load_detector(SMALL.checkpoint, merge=False)
    backbone = load_backbone(folder).state_dict()
    tensors = {name.replace(".base_layer", ""): tensor for name, tensor in detector.backbone.state_dict().items()}
    with torch.no_grad():
        for name, tensor in backbone.items():
            tensors[name].copy_(tensor)
    save_checkpoint(tmp_path / "partial.ckpt", detector, backbone=BackboneSource.of(folder), training={})
    save_checkpoint(tmp_path / "whole.ckpt", detector, backbone=None, training={})
    partial, whole = (load_detector(tmp_path / name).state_dict() for name in ("partial.ckpt", "whole.ckpt"))
    assert all(torch.equal(tensor, partial[name]) for name, tensor in whole.items())


def test_a_direct_classifier_without_a_bank(tmp_path: Path, small_detector: MirrorDetector) -> None:
    config = replace(small_detector.config, memory_bank=None, head=HeadConfig(inputs=("cls",)))
    detector = MirrorDetector(config).eval()
    backbone = load_backbone(SMALL.backbone_path)
    detector.backbone = backbone
    path = tmp_path / "direct.ckpt"
    save_checkpoint(path, detector.requires_grad_(False), backbone=BackboneSource.of(SMALL.backbone_path), training={})
    names = torch.load(path, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"normalise", "head"}
    again = load_detector(path)
    assert again.config == config
    assert torch.equal(logits(again, SMALL), logits(detector, SMALL))


def test_what_counts_for_the_hash(folder: Path) -> None:
    first = backbone_sha256(folder)
    (folder / "README.md").write_text("x")
    (folder / "runs").mkdir()
    assert backbone_sha256(folder) == first
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + " ")
    assert backbone_sha256(folder) != first
    (folder / "config.json").write_text(config)
    assert backbone_sha256(folder) == first
    (folder / "model.safetensors").rename(folder / "gone")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        backbone_sha256(folder)


def test_a_folder_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has been left alone for a while: until then, a change may not show in its times."""
    read: list[str] = []
    monkeypatch.setattr(
        "mirror_pl.detectors.checkpoint.backbone_folder.path_sha256", lambda path: read.append(path.name) or "0" * 64
    )
    assert backbone_sha256(folder) == backbone_sha256(folder)
    assert read == ["config.json", "model.safetensors"] * 2
    later = time.time_ns() + 10**10
    monkeypatch.setattr(backbone_folder.time, "time_ns", lambda: later)
    read.clear()
    assert backbone_sha256(folder) == backbone_sha256(folder.parent / "." / folder.name)
    assert read == ["config.json", "model.safetensors"]
    os.utime(folder / "config.json", ns=(1, 1))
    backbone_sha256(folder)
    assert len(read) == 4


def test_files_are_no_larger_than_their_tensors(tmp_path: Path, small_detector: MirrorDetector) -> None:
    """A tensor that is a part of a larger one, as strategies make them, brings no more than itself along."""
    detector = load_detector(SMALL.checkpoint)
    weight = detector.head.classifier[0].weight
    weight.data = torch.zeros(10**7)[: weight.numel()].view_as(weight).copy_(weight)
    save_checkpoint(tmp_path / "x.ckpt", detector, backbone=None, training={})
    assert (tmp_path / "x.ckpt").stat().st_size < 1.1 * sum(t.nbytes for t in detector.state_dict().values()) + 10**5
    assert torch.equal(load_detector(tmp_path / "x.ckpt").head.classifier[0].weight, weight)


def test_what_must_not_be_left_out_or_put_in(folder: Path, tmp_path: Path, golden_detector: MirrorDetector) -> None:
    source = BackboneSource.of(folder)
    for training in ({"loss": np.float64(1)}, {"path": tmp_path}, {"a": [{1: 2}]}, {"tensor": torch.zeros(1)}):
        with pytest.raises(TypeError, match="plain values only"):
            save_checkpoint(tmp_path / "x.ckpt", golden_detector, backbone=None, training=training)
    norm = next(
        part
        for name, part in golden_detector.backbone.model.named_parameters()
        if "layer." not in name and "norm.weight" in name
    )
    norm.requires_grad_(True)
    try:
        with pytest.raises(ValueError, match=r"backbone\.norm\.weight is not frozen"):
            save_checkpoint(tmp_path / "x.ckpt", golden_detector, backbone=source, training={})
        save_checkpoint(tmp_path / "whole.ckpt", golden_detector, backbone=None, training={})
    finally:
        norm.requires_grad_(False)
    assert not (tmp_path / "x.ckpt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk(tmp_path: Path, small_detector: MirrorDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.ckpt"
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0")
    path.with_name(".x.ckpt.0.tmp").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(path, small_detector, backbone=None, training={})
    assert list(tmp_path.glob("*x.ckpt*")) == []


@pytest.mark.parametrize("room", [1000, 5000, 20_000, 60_000])
def test_a_disk_that_fills_up(tmp_path: Path, room: int) -> None:
    """Wherever it does in the archive, which torch then cannot close either: the limit on a file's size does the same."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.ckpt"
    save_torch(path, {"a": torch.zeros(3)})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            save_torch(path, {str(number): torch.rand(1000) for number in range(20)}, replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob("*x.ckpt*")] == ["x.ckpt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ours: [], "describes no detector"),
        (lambda ours: {key: ours[key] for key in ("backbone", "training")}, "describes no detector"),
        (lambda ours: ours | {"detector": {"lora": 3}}, "config that is damaged"),
        (lambda ours: ours | {"backbone": "dino"}, "does not say which backbone"),
        (lambda ours: ours | {"backbone": {"path": None, "sha256": "0"}}, "does not say which backbone"),
        (lambda ours: ours | {"training": 3}, "expected plain values under 'training'"),
        (lambda ours: ours | {"training": {"a": torch.zeros(1)}}, "expected plain values under 'training'"),
        (lambda ours: ours | {"backbone": None}, "missing: backbone."),
    ],
)
def test_damaged_records(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "x.ckpt"
    detector = load_detector(SMALL.checkpoint, merge=False)
    save_checkpoint(path, detector, backbone=BackboneSource.of(SMALL.backbone_path), training={})
    content = torch.load(path, weights_only=True)
    torch.save(content | {"mirror_pl": change(content["mirror_pl"])}, path)
    assert message in error_of(path)


def test_a_missing_adapter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    detector = load_detector(SMALL.checkpoint, merge=False)
    save_checkpoint(path, detector, backbone=BackboneSource.of(SMALL.backbone_path), training={})
    content = torch.load(path, weights_only=True)
    for name in content["state_dict"]:
        rest = {key: tensor for key, tensor in content["state_dict"].items() if key != name}
        torch.save(content | {"state_dict": rest}, path)
        assert name in error_of(path)


def test_the_folder_of_convert_is_whole_and_knows_its_training(partial: Path, folder: Path, golden: GoldenSet) -> None:
    expected = logits(load_detector(partial, merge=False), golden)
    raw = read_checkpoint(partial)
    save_folder(partial.parent / "out", *read_detector(raw), training=raw.training)
    shutil.rmtree(folder)
    assert read_checkpoint(partial.parent / "out").training == TRAINING
    assert torch.equal(logits(load_detector(partial.parent / "out", merge=False), golden), expected)
