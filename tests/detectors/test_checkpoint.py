"""Checkpoints: every format in, all or nothing, and nothing in a file is executed."""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from golden_set import SMALL, GoldenSet
from safetensors.torch import save_file
from torch import Tensor

from mirror_pl.detectors import MirrorDetector, load_detector
from mirror_pl.detectors.checkpoint import read_detector, save_folder
from mirror_pl.detectors.checkpoint.backbone_folder import load_backbone, read_backbone_folder
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES, known_backbone
from mirror_pl.errors import CheckpointError, OutputError
from mirror_pl.modules import DetectorModule

Tensors = dict[str, Tensor]


def content(golden: GoldenSet = SMALL) -> dict[str, Any]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(golden.checkpoint, weights_only=True)


def in_the_newer_layout(tensors: Tensors) -> Tensors:
    """Rename a file written under transformers 4.57 as one written under 5.x would be."""
    newer = {}
    for name, tensor in tensors.items():
        if "dino.encoder.layer." in name:  # DINOv2
            for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                name = name.replace(f".attention.attention.{old}.", f".attention.{new}.")
            name = name.replace(".attention.output.dense.", ".attention.o_proj.")
        else:
            name = name.replace("dino.layer.", "dino.model.layer.")
        newer[name] = tensor
    assert set(newer) != set(tensors)
    return newer


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def same_scores(detector: MirrorDetector, golden: GoldenSet = SMALL, images: int = 4, tolerance: float = 1e-5) -> bool:
    with torch.inference_mode():
        p_fake = detector(golden.pixels()[:images]).p_fake
    return bool((p_fake - golden.column("prob_fake")[:images]).abs().max() < tolerance)


def test_the_other_layer_layout(golden: GoldenSet, tmp_path: Path) -> None:
    """Both layouts, the second with DDP's prefix and from a folder of another name, give the same tensors to the bit."""
    model = {f"module.{name}": tensor for name, tensor in in_the_newer_layout(content(golden)["model"]).items()}
    path = save(tmp_path / "newer.pth", {"model": model})
    folder = tmp_path / "some folder"
    folder.mkdir()
    (folder / "config.json").write_text((golden.backbone_path / "config.json").read_text())
    newer = load_detector(path, backbone=read_backbone_folder(folder))
    older = load_detector(golden.checkpoint, backbone=read_backbone_folder(golden.backbone_path))
    assert newer.config == older.config
    for (name, tensor), (other_name, other) in zip(newer.state_dict().items(), older.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(tensor, other), name
    assert same_scores(newer, golden)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: {"state_dict": model},
        lambda model: {"model_state_dict": model, "epoch": 3},
        lambda model: {"model": model, "args": argparse.Namespace(a=1)},
        lambda model: {"model": {f"module.{name}": tensor for name, tensor in model.items()}},
        lambda model: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in model.items()}},
    ],
    ids=["bare", "state_dict", "model_state_dict", "args", "module.", "compiled"],
)
def test_envelopes_and_prefixes(tmp_path: Path, wrap: Callable[[Tensors], Any]) -> None:
    assert same_scores(load_detector(save(tmp_path / "x.pth", wrap(content()["model"]))))


def test_the_old_file_format_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "legacy.pth"
    torch.save({"model": content()["model"]}, path, _use_new_zipfile_serialization=False)
    assert same_scores(load_detector(path))


def test_one_file_is_enough_and_its_name_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_bytes(SMALL.checkpoint.read_bytes())
    detector = load_detector(path)
    assert detector.config.backbone == KNOWN_BACKBONES["tiny"]
    assert same_scores(detector)


def test_the_backbone_folders_name_means_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "weights of last week"
    folder.mkdir()
    (folder / "config.json").write_text((SMALL.backbone_path / "config.json").read_text())
    assert same_scores(load_detector(SMALL.checkpoint, backbone=read_backbone_folder(folder)))


def test_a_merged_published_file(tmp_path: Path) -> None:
    """Without adapters in the file, none are expected."""
    merged = load_detector(SMALL.checkpoint)
    assert merged.config.lora is None
    path = save(tmp_path / "merged.pth", {"model": merged.state_dict()})
    assert same_scores(load_detector(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_our_folder_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors, config = read_detector(SMALL.checkpoint)
    save_folder(tmp_path / "out", tensors, config, dtype)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    again, same_config = read_detector(tmp_path / "out")
    assert same_config == config
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(again[name].float(), tensor if name.startswith("normalise") else tensor.to(dtype).float()), name
    detector = load_detector(tmp_path / "out")
    assert detector.head.classifier[0].weight.dtype == torch.float32
    # What bfloat16 rounds off the weights, 2^-9 of each, moves scores by less than this; measured 2e-3.
    assert same_scores(detector, tolerance=1e-5 if dtype == torch.float32 else 0.01)
    assert same_scores(load_detector(tmp_path / "out", memory_path=SMALL.memory_path), tolerance=0.01)
    with pytest.raises(OutputError, match="exists already"):
        save_folder(tmp_path / "out", tensors, config)


def test_our_folder_carries_names_of_ours(tmp_path: Path) -> None:
    tensors, config = read_detector(SMALL.checkpoint)
    save_folder(tmp_path / "out", tensors, config)
    description = json.loads((tmp_path / "out" / "config.json").read_text())
    assert description["detector"]["backbone"]["width"] == 32
    assert "backbone.layers.1.attention.q.lora_a" in tensors
    assert not [name for name in tensors if "dino" in name or "_proj" in name or "default" in name]


@pytest.mark.parametrize("merge", [True, False])
def test_lightning_checkpoints(tmp_path: Path, merge: bool) -> None:
    detector = load_detector(SMALL.checkpoint, merge=merge)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(DetectorModule(detector))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = load_detector(tmp_path / "x.ckpt", merge=False)
    assert again.config == detector.config
    for (name, tensor), (other_name, other) in zip(detector.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(tensor, other), name
    # Lightning's own way in takes the same file.
    fresh = DetectorModule(load_detector(SMALL.checkpoint, merge=merge))
    with torch.no_grad():
        fresh.detector.head.classifier[0].weight.zero_()
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(fresh.detector.head.classifier[0].weight, detector.head.classifier[0].weight)


def error_of(path: Path, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_detector(path, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "removed",
    [
        "backbone.dino.layer.1.base_model.model.attention.v_proj.lora_B.default.weight",
        "backbone.dino.layer.0.base_model.model.attention.q_proj.lora_A.default.weight",
        "memory_bank.out_proj.bias",
        "detector.residual_mlp.3.weight",
        "norm.mean",
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, removed: str, merge: bool) -> None:
    model = content()["model"]
    del model[removed]
    message = error_of(save(tmp_path / "x.pth", {"model": model}), merge=merge)
    ours = {
        "v_proj.lora_B": "backbone.layers.1.attention.v.lora_b",
        "q_proj.lora_A": "backbone.layers.0.attention.q.lora_a",
        "out_proj": "memory_bank.out.bias",
        "residual_mlp": "head.residual_branch.3.weight",
        "norm.mean": "normalise.mean",
    }
    assert "1 missing: " + next(name for part, name in ours.items() if part in removed) in message
    assert "the file looks like tiny" in message


def test_every_tensor_is_needed(tmp_path: Path) -> None:
    """Whichever tensor is taken out, the load fails; none stays silently at its initial value."""
    model = content()["model"]
    for name in model:
        path = save(tmp_path / "x.pth", {"model": {key: value for key, value in model.items() if key != name}})
        with pytest.raises(CheckpointError):
            load_detector(path, backbone=KNOWN_BACKBONES["tiny"], merge=False)


def test_unexpected_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    model = content()["model"]
    model["backbone.dino.layer.7.base_model.model.norm1.weight"] = torch.zeros(32)
    model["detector.head.0.bias"] = torch.zeros(7)
    message = error_of(save(tmp_path / "x.pth", {"model": model}), backbone=KNOWN_BACKBONES["tiny"])
    assert "1 unexpected: backbone.layers.7.norm1.weight" in message
    assert "head.classifier.0.bias (file (7,), detector (512,))" in message


def test_another_backbone_is_said(tmp_path: Path) -> None:
    message = error_of(SMALL.checkpoint, backbone=known_backbone("dinov3_b"))
    assert "the file looks like tiny (dinov3, width 32, 2 layers" in message
    assert "use backbone=tiny" in message
    tensors, config = read_detector(SMALL.checkpoint)
    save_folder(tmp_path / "out", tensors, config)
    assert "Leave backbone= out" in error_of(tmp_path / "out", backbone=known_backbone("dinov3_b"))


def test_an_unknown_architecture_asks_for_its_folder(tmp_path: Path) -> None:
    model = content()["model"]
    model["backbone.dino.embeddings.patch_embeddings.weight"] = torch.zeros(48, 3, 16, 16)
    message = error_of(save(tmp_path / "x.pth", {"model": model}))
    assert "no backbone known by name (dinov3, width 48" in message
    assert "backbone_folder=FOLDER" in message


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": content()["model"], "args": Bomb()}, path, _use_new_zipfile_serialization=not legacy)
    message = error_of(path)
    assert "would run code" in message
    assert "system" in message
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    error_of(tmp_path / "plain.pth")
    assert not Path("exploded").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    whole = SMALL.checkpoint.read_bytes()
    cases: dict[str, Any] = {
        "absent.pth": (None, "does not exist"),
        "empty.pth": (b"", "no PyTorch checkpoint"),
        "text.pth": (b"hello", "no PyTorch checkpoint"),
        "half.pth": (whole[: len(whole) // 2], "no PyTorch checkpoint, or a truncated one"),
        "tail.pth": (whole[: len(whole) - 100], "no PyTorch checkpoint, or a truncated one"),
    }
    for name, (data, expected) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        message = error_of(tmp_path / name)
        assert expected in message, (name, message)
        assert str(tmp_path / name) in message
    assert "holds a list" in error_of(save(tmp_path / "list.pth", [1, 2]))
    assert "is not a detector's checkpoint" in error_of(save(tmp_path / "other.pth", {"epoch": 1, "loss": 0.5}))
    assert "holds no MIRROR" in error_of(save(tmp_path / "resnet.pth", {"conv1.weight": torch.zeros(3)}))
    assert "Phase-1 memory bank" in error_of(SMALL.memory_path)
    assert "backbone_folder=FOLDER" in error_of(SMALL.backbone_path)
    (tmp_path / "nothing").mkdir()
    assert "no config.json" in error_of(tmp_path / "nothing")


def test_a_damaged_folder(tmp_path: Path) -> None:
    tensors, config = read_detector(SMALL.checkpoint)
    save_folder(tmp_path / "out", tensors, config)
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "damaged" in error_of(tmp_path / "out")
    weights.write_bytes(b"{}")
    assert "damaged" in error_of(tmp_path / "out")
    good = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text("{")
    assert "damaged" in error_of(tmp_path / "out")
    for change, message in (
        (good | {"version": 99}, "format version 99, this mirror_pl reads 1"),
        (good | {"detector": "abc"}, "damaged"),
        (good | {"detector": 3}, "damaged"),
        (good | {"detector": good["detector"] | {"lora": {"rank": 0}}}, "rank of LoRA"),
        *(
            (good | {"detector": good["detector"] | {"preprocess": good["detector"]["preprocess"] | wrong}}, says)
            for wrong, says in (
                (
                    {"std": [0.2, 0, 0.2]},
                    "again carries a config that is damaged: std must be finite numbers above 0, one per RGB channel, got (0.2, 0",
                ),
                ({"std": [0.2, 0.2, -1]}, "std must be"),
                ({"std": [0.2, 0.2, math.nan]}, "got (0.2, 0.2, nan)"),
                ({"mean": [0.2, 0.2, math.inf]}, "mean must be"),
                ({"crop_px": 0}, "crop_px must be a whole number from 1 to 4096, got 0"),
                ({"crop_px": 10**9}, "got 1000000000"),
                ({"crop_px": 4}, "crop_px of the preprocessing must be at least the backbone's patch"),
                ({"crop_px": 1e9}, "got 1000000000.0"),
                ({"max_short_side_px": 0}, "max_short_side_px must be a whole number from 1 to 65536"),
                ({"align_quality": 101}, "align_quality must be from 1 to 100"),
            )
        ),
        (good | {"detector": good["detector"] | {"backbone": good["detector"]["backbone"] | {"heads": 0}}}, "heads"),
        (good | {"detector": good["detector"] | {"backbone": good["detector"]["backbone"] | {"patch_px": "a"}}}, "patch_px"),
    ):
        save_folder(tmp_path / "again", tensors, config)
        (tmp_path / "again" / "config.json").write_text(json.dumps(change))
        assert message in error_of(tmp_path / "again")
        shutil.rmtree(tmp_path / "again")


def test_memory_path(tmp_path: Path) -> None:
    assert same_scores(load_detector(SMALL.checkpoint, memory_path=SMALL.memory_path))
    with torch.serialization.safe_globals([argparse.Namespace]):
        bank = torch.load(SMALL.memory_path, weights_only=True)
    without = {name: tensor for name, tensor in content()["model"].items() if not name.startswith("memory_bank.")}
    path = save(tmp_path / "x.pth", {"model": without})
    assert "memory_bank.memory" in error_of(path)
    assert same_scores(load_detector(path, memory_path=SMALL.memory_path))
    for prefix in ("", "memory_bank.", "module.memory_bank."):
        renamed = {name.replace("module.", prefix): t for name, t in bank["model_state_dict"].items()}
        other = save(tmp_path / "bank.pth", {"model_state_dict": renamed})
        assert same_scores(load_detector(path, memory_path=other))
    bank["model_state_dict"]["module.memory"][0, 0] += 1
    message = error_of(SMALL.checkpoint, memory_path=save(tmp_path / "other_bank.pth", bank))
    assert "another bank" in message
    assert "memory_bank.memory" in message
    assert "holds no memory bank" in error_of(SMALL.checkpoint, memory_path=SMALL.checkpoint)


@pytest.mark.parametrize("std", [0.0, -0.25, math.nan, math.inf])
def test_a_normalisation_that_divides_by_nothing_is_refused(tmp_path: Path, std: float) -> None:
    model = content()["model"]
    model["norm.std"][0, 1] = std
    message = error_of(save(tmp_path / "x.pth", {"model": model}))
    assert (
        "x.pth is damaged: its normalisation's std must be finite numbers above 0, one per RGB channel, got (0.2" in message
    )
    assert f", {std}, 0.2" in message


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    """Wherever tensors are read: torch would drop the imaginary part."""
    model = content()["model"]
    model["detector.head.0.bias"] = model["detector.head.0.bias"].to(torch.complex64)
    message = error_of(save(tmp_path / "x.pth", {"model": model}))
    assert "x.pth: the tensor 'detector.head.0.bias' cannot be a weight" in message
    assert "torch.complex64" in message
    (tmp_path / "out").mkdir()
    shutil.copy(SMALL.backbone_path / "config.json", tmp_path / "out")
    save_file({"layer.0.x": torch.ones(1, dtype=torch.complex64)}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"out: the tensor 'layer\.0\.x' cannot be a weight.*torch.complex64"):
        load_backbone(tmp_path / "out")


def test_the_files_normalisation_becomes_the_recipes(tmp_path: Path) -> None:
    model = content()["model"]
    model["norm.mean"] = torch.full((1, 3, 1, 1), 0.5)
    detector = load_detector(save(tmp_path / "x.pth", {"model": model}))
    assert detector.spec.mean == (0.5, 0.5, 0.5)
    assert detector.config.preprocess == detector.spec
    assert load_detector(SMALL.checkpoint).spec.mean == (0.485, 0.456, 0.406)
