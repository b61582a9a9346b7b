"""Export in the published format: the names and the scores of the published files, and what they cannot hold is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import SMALL, GoldenSet
from torch import Tensor

from mirror_pl.detectors import BackboneConfig, DetectorConfig, HeadConfig, LoraConfig, MirrorDetector, load_detector
from mirror_pl.detectors.checkpoint import departures, merged, read_checkpoint, read_detector, save_published
from mirror_pl.detectors.checkpoint.names import our_name, with_our_names
from mirror_pl.detectors.checkpoint.published import published_names
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES
from mirror_pl.errors import CheckpointError, OutputError


def content(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def logits(detector: MirrorDetector, golden: GoldenSet = SMALL) -> Tensor:
    with torch.inference_mode():
        return detector(golden.pixels()[:4]).logit


def read(golden: GoldenSet) -> tuple[dict[str, Tensor], DetectorConfig]:
    return read_detector(golden.checkpoint, backbone_folder=golden.backbone_path)


def test_a_published_file_comes_out_as_it_went_in(golden: GoldenSet, tmp_path: Path) -> None:
    """The same names, dtypes, shapes and values; so the published code reads it."""
    published = content(golden.checkpoint)
    path = tmp_path / "new folder" / "checkpoint.pth"
    tensors, config = read(golden)
    save_published(path, tensors, config, epoch=3)
    exported = torch.load(path, weights_only=True)
    assert exported.keys() == {"model", "epoch", "mirror_pl"}
    assert exported["epoch"] == published["epoch"] == 3
    assert exported["model"].keys() == published["model"].keys()
    for name, tensor in published["model"].items():
        assert exported["model"][name].dtype == tensor.dtype
        assert torch.equal(exported["model"][name], tensor), name
    assert departures(config) == []
    with pytest.raises(OutputError, match="nothing is overwritten"):
        save_published(path, tensors, config)


@pytest.mark.parametrize("merge", [True, False])
def test_exported_detectors_keep_their_scores(golden: GoldenSet, tmp_path: Path, merge: bool) -> None:
    tensors, config = read(golden)
    if merge:
        tensors, config = merged(tensors, config)
    path = tmp_path / "x.pth"
    save_published(path, tensors, config)
    detector = load_detector(path, merge=False)
    assert detector.config == config
    with torch.inference_mode():
        p_fake = detector(golden.pixels()).p_fake
    assert (p_fake - golden.column("prob_fake")).abs().max() < 1e-5
    before = load_detector(golden.checkpoint, backbone_folder=golden.backbone_path, merge=merge)
    assert torch.equal(logits(detector, golden), logits(before, golden))
    if merge:
        names = torch.load(path, weights_only=True)["model"]
        assert not [name for name in names if "base_" in name or "lora" in name]


@pytest.mark.parametrize("lora", [LoraConfig(), None], ids=["lora", "merged"])
@pytest.mark.parametrize("name", [*KNOWN_BACKBONES, "v2 with a bank of its own"])
def test_the_names_lead_there_and_back(name: str, lora: LoraConfig | None) -> None:
    """For every tensor of every backbone, under the installed transformers."""
    backbone = KNOWN_BACKBONES.get(name, BackboneConfig("dinov2", width=48, depth=2, heads=3, mlp_width=96, patch_px=14))
    with torch.device("meta"):
        detector = MirrorDetector(DetectorConfig(backbone, lora=lora))
    ours = with_our_names(detector.state_dict())
    published = published_names(ours, backbone.family)
    assert len(set(published.values())) == len(ours) == len(detector.state_dict())
    assert {name: our_name(there) for name, there in published.items()} == {name: name for name in ours}
    assert not [there for name, there in published.items() if there == name and not name.startswith("memory_bank.memory")]


def test_the_published_tensors_of_the_largest() -> None:
    """825 of them, as counted in the published file: backbone with LoRA, bank, head, and 6 constants of normalisation."""
    with torch.device("meta"):
        detector = MirrorDetector(DetectorConfig(KNOWN_BACKBONES["dinov3_hplus"]))
    names = published_names(with_our_names(detector.state_dict()), "dinov3")
    assert len(names) == 825
    assert sum(tensor.numel() for tensor in detector.state_dict().values()) == 842_558_720 + 11_797_760 + 1_608_130 + 6
    assert "backbone.dino.layer.31.base_model.model.attention.v_proj.lora_B.default.weight" in names.values()


def variant(**changes: Any) -> MirrorDetector:
    config = load_detector(SMALL.checkpoint, merge=False).config
    return MirrorDetector(replace(config, **changes)).eval()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop_registers": True}, "no register tokens in the bank"),
        ({"head": HeadConfig(inputs=("perplexity", "residual"))}, "head inputs perplexity, residual"),
        ({"head": HeadConfig(inputs=("cls",)), "memory_bank": None}, "no memory bank"),
        ({"head": HeadConfig(hidden=8)}, "other head sizes"),
        ({"lora": LoraConfig(rank=4)}, "LoRA of LoraConfig(rank=4"),
        ({"lora": None}, "no LoRA adapters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_published_code_does_not_know_comes_back_all_the_same(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    detector = variant(**changes)
    assert [what for what in departures(detector.config) if said in what]
    save_published(tmp_path / "x.pth", with_our_names(detector.state_dict()), detector.config, training={"epoch": 2})
    again = load_detector(tmp_path / "x.pth", merge=False)
    assert again.config == detector.config
    assert torch.equal(logits(again), logits(detector))
    assert read_checkpoint(tmp_path / "x.pth").training == {"epoch": 2}


def without_our_config(detector: MirrorDetector, path: Path) -> Path:
    save_published(path, with_our_names(detector.state_dict()), detector.config)
    torch.save({key: value for key, value in content(path).items() if key != "mirror_pl"}, path)
    return path


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(inputs=("perplexity", "residual")),
        HeadConfig(inputs=("residual", "cls")),
        HeadConfig(inputs=("perplexity", "cls")),
        HeadConfig(inputs=("perplexity",)),
        HeadConfig(inputs=("cls",)),
        HeadConfig(perplexity_width=16, residual_hidden=24, residual_width=40, hidden=48),
        HeadConfig(inputs=("perplexity", "residual"), perplexity_width=16, residual_hidden=24, residual_width=40, hidden=48),
    ],
    ids=str,
)
def test_a_published_files_head_is_told_from_its_tensors(tmp_path: Path, head: HeadConfig) -> None:
    detector = variant(head=head)
    again = load_detector(without_our_config(detector, tmp_path / "x.pth"), merge=False)
    assert again.config == detector.config
    assert torch.equal(logits(again), logits(detector))


def test_a_published_file_without_a_bank(tmp_path: Path) -> None:
    detector = variant(head=HeadConfig(inputs=("cls",)), memory_bank=None)
    assert load_detector(without_our_config(detector, tmp_path / "x.pth"), merge=False).config == detector.config


def _without_a_branch(model: dict[str, Tensor]) -> None:
    for name in [name for name in model if name.startswith("detector.perplexity_mlp.")]:
        del model[name]


def _too_wide(model: dict[str, Tensor]) -> None:
    model["detector.head.0.weight"] = torch.zeros(512, 999)


def _without_dimensions(model: dict[str, Tensor]) -> None:
    model["detector.head.0.weight"] = model["detector.residual_mlp.0.weight"] = torch.tensor(1.0)


def _empty(model: dict[str, Tensor]) -> None:
    model["detector.perplexity_mlp.0.weight"] = torch.zeros(0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_branch, "2 missing: head.perplexity_branch.0.weight, head.perplexity_branch.0.bias"),
        (_too_wide, "head.classifier.0.weight (file (512, 999), detector (512, 352))"),
        (_without_dimensions, "head.classifier.0.weight (file (), detector (512, 352))"),
        (_empty, "head.perplexity_branch.0.weight (file (0, 2), detector (64, 2))"),
    ],
)
def test_a_head_that_fits_nothing_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    model = content(SMALL.checkpoint)["model"]
    change(model)
    torch.save({"model": model}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        load_detector(tmp_path / "x.pth")
    assert message in str(caught.value)


def test_a_name_that_nothing_is_known_of_stays() -> None:
    names = ["head.classifier.0.weight", "something.else", "backbone.layers.0.attention.q.lora_a"]
    published = published_names(names, "dinov2")
    assert published["something.else"] == "something.else"
    assert published[names[2]].endswith("encoder.layer.0.base_model.model.attention.attention.query.lora_A.default.weight")
