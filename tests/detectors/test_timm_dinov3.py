"""DINOv3 in timm's form: the same backbone as in transformers', to the bit, or none at all; it trains and evaluates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_set import HERE, SMALL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirror_pl.config.command import compose
from mirror_pl.detectors import load_detector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint import backbone_sha256, load_backbone
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.errors import CheckpointError
from mirror_pl.images.spec import PreprocessSpec
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs.train import run

GOLDEN = HERE / "timm_dinov3"
NAMES = ("gated", "plain", "plain_qkvb")


@torch.inference_mode()
def all_tokens(backbone: Backbone, pixels: Tensor) -> Tensor:
    features = backbone(pixels)
    return torch.cat([features.cls[:, None], features.tokens], dim=1)


def golden_pixels(paths: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(np.stack([SMALL.crops()[path] for path in paths])).permute(0, 3, 1, 2) / 255
    spec = PreprocessSpec()
    return (pixels - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_the_same_backbone(name: str) -> None:
    of_timm, other = load_backbone(GOLDEN / name / "timm"), load_backbone(GOLDEN / name / "transformers")
    assert of_timm.config == other.config
    assert of_timm.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(of_timm.state_dict()[key], tensor) for key, tensor in other.state_dict().items())
    with np.load(GOLDEN / "features.npz") as golden:
        pixels = golden_pixels(golden["path"])
        expected, wide = torch.from_numpy(golden[name]), torch.from_numpy(golden[f"{name}_rect160x208"])
    torch.testing.assert_close(all_tokens(of_timm, pixels), expected, atol=5e-5, rtol=0)
    cut = pixels[:2, :, 32:192, :208]
    torch.testing.assert_close(all_tokens(of_timm, cut)[:, :6], wide, atol=5e-5, rtol=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "plain_qkvb/timm", tmp_path / "timm"))


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("blocks.1.attn.v_bias"), "misses backbone.layers.1.attention.v.bias"),
        (lambda t: t.pop("norm.weight"), "misses backbone.norm.weight"),
        (lambda t: t.pop("reg_token"), "misses backbone.embeddings.register_tokens|0 registers"),
        (lambda t: t.update({"blocks.0.attn.k_bias": torch.zeros(32)}), "unknown blocks.0.attn.k_bias"),
        (lambda t: t.update({"blocks.0.attn.qkv.bias": torch.zeros(96)}), "unknown blocks.0.attn.qkv.bias"),
        (lambda t: t.update({"blocks.0.ls1.gamma": torch.zeros(32)}), "unknown blocks.0.ls1.gamma"),
        (lambda t: t.update({"blocks.0.mlp.fc1_x.weight": torch.zeros(64, 32)}), "unknown blocks.0.mlp.fc1_x.weight"),
        (lambda t: t.update({"head.weight": torch.zeros(1, 32)}), "unknown head.weight"),
        (lambda t: t.update({"blocks.1.attn.qkv.weight": torch.zeros(95, 32)}), r"other shapes in .*layers.1.attention.v"),
        (lambda t: t.update({"blocks.1.gamma_1": torch.zeros(31)}), "other shapes in backbone.layers.1.layer_scale1"),
    ],
)
def test_all_or_nothing(folder: Path, change: Callable[[dict[str, Tensor]], Any], said: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(architecture="vit_large_patch14_dinov2"), "describes timm's 'vit_large_patch14_dinov2'"),
        (lambda c: c.update(architecture=["x"]), "describes timm's"),
        (lambda c: c["pretrained_cfg"].update(mean=[0.430, 0.411, 0.296]), "one of sat493m is for satellite images"),
        (lambda c: c.pop("model_args"), "how many heads"),
        (lambda c: c["model_args"].update(num_heads="2"), "the heads of a backbone"),
        (lambda c: c["model_args"].update(num_heads=3), "not divisible by its 3 heads"),
    ],
)
def test_another_model_is_refused(folder: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    _edit(folder, change)
    with pytest.raises(CheckpointError, match=said):
        load_backbone(folder)


@pytest.mark.parametrize(("architecture", "width", "heads"), [("base", 128, 2), ("large", 192, 3), ("7b", 256, 2)])
def test_heads_where_the_config_is_silent(folder: Path, architecture: str, width: int, heads: int) -> None:
    _edit(folder, lambda c: (c.pop("model_args"), c.update(architecture=f"vit_{architecture}_patch16_dinov3")))
    shapes = {"patch_embed.proj.weight": (width, 3, 16, 16), "blocks.0.mlp.fc1.weight": (4 * width, width)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    assert read_backbone_folder(folder).heads == heads


def test_trained_from_it_and_evaluated(tmp_path: Path) -> None:
    """Phase 1, Phase 2 and an evaluation: the checkpoint leaves the weights in timm's folder, and names its hash."""
    source, images = GOLDEN / "gated/timm", tmp_path / "images"
    for number, pixels in enumerate(SMALL.pixels()[:16]):
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        for label, picture in (("0_real", image), ("1_fake", image.point(lambda value: value // 3))):
            (images / label).mkdir(parents=True, exist_ok=True)
            picture.save(images / label / f"{number}.jpg", quality=95)
    shared = [f"backbone.path={source}", "trainer.accelerator=cpu", "logger=none", "batch_size=8", "num_workers=0"]
    shared += ["~callbacks.progress", f"paths.outputs={tmp_path / 'outputs'}", "phase.epochs=1"]
    bank = ["phase=memory", f"data.real={images}/0_real", "phase.slots=16", "phase.heads=4", "phase.top_k=4"]
    run(compose("train", [*shared, *bank, f"output_dir={tmp_path / 'bank'}"]))
    memory = f"memory_path={tmp_path / 'bank/memory_bank.pth'}"
    run(compose("train", [*shared, "phase=detector", f"data.root={images}", memory, f"output_dir={tmp_path / 'detector'}"]))
    saved = torch.load(tmp_path / "detector/last.ckpt", weights_only=True)
    assert saved["mirror_pl"]["backbone"] == {"path": str(source), "sha256": backbone_sha256(source)}
    assert not any(name.startswith("backbone.") and "lora" not in name for name in saved["state_dict"])
    scored = [f"checkpoint={tmp_path / 'detector/last.ckpt'}", f"data_root={SMALL.data_root}", "benchmark=chameleon"]
    scored += ["trainer.accelerator=cpu", "logger=none", "num_workers=0", f"output_dir={tmp_path / 'eval'}"]
    evaluation.run(compose("eval", scored), set())
    facts = json.loads((tmp_path / "eval/run.json").read_text())
    assert facts["images"]["ok"] == 16
    assert facts["backbone"] == saved["mirror_pl"]["backbone"]
    runs = [tmp_path / "detector", tmp_path / "eval"]
    load_detector(tmp_path / "detector/last.ckpt").save_pretrained(tmp_path / "published", run=runs)
    card = (tmp_path / "published/README.md").read_text()
    for said in ("32 images", "4 steps", "lora_rank: 8", "| chameleon |", "a dinov3: DINOv3 License"):
        assert said in card
    assert str(tmp_path) not in card
