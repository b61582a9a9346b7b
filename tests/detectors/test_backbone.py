"""Backbones: architectures, names under the installed transformers, LoRA, and train mode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden_set import SMALL, GoldenSet

from mirror_pl.detectors import DetectorConfig, LoraConfig, MirrorDetector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.detectors.checkpoint.names import live_names, our_name
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES, Signature, known_backbone
from mirror_pl.detectors.lora import add_lora
from mirror_pl.errors import CheckpointError, ConfigError

TINY = KNOWN_BACKBONES["tiny"]
TINY_V2 = BackboneConfig("dinov2", width=32, depth=2, heads=4, mlp_width=64, patch_px=14)


def expected_names(config: BackboneConfig, lora: bool) -> set[str]:
    """Our names of a backbone, spelt out."""
    names = {"embeddings.cls_token", "embeddings.mask_token", "embeddings.patches.weight", "embeddings.patches.bias"}
    names.add("embeddings.position_embeddings" if config.family == "dinov2" else "embeddings.register_tokens")
    names |= {"norm.weight", "norm.bias"}
    for layer in range(config.depth):
        parts = {"layer_scale1", "layer_scale2", "attention.k.weight"}
        biased = ["norm1", "norm2", "attention.q", "attention.v", "attention.o", "mlp.up", "mlp.down"]
        biased += ["mlp.gate"] if config.gated_mlp else []
        biased += ["attention.k"] if config.family == "dinov2" else []
        parts |= {f"{part}.{kind}" for part in biased for kind in ("weight", "bias")}
        if lora:
            parts |= {f"attention.{part}.lora_{which}" for part in "qkv" for which in "ab"}
        names |= {f"layers.{layer}.{part}" for part in parts}
    return {f"backbone.{name}" for name in names}


@pytest.mark.parametrize("lora", [LoraConfig(), None], ids=["lora", "plain"])
@pytest.mark.parametrize("config", [TINY, TINY_V2], ids=["dinov3", "dinov2"])
def test_names_under_the_installed_transformers(config: BackboneConfig, lora: LoraConfig | None) -> None:
    with torch.device("meta"):
        detector = MirrorDetector(DetectorConfig(config, lora=lora))
    ours = set(live_names(detector))
    assert len(ours) == len(detector.state_dict())
    assert {name for name in ours if name.startswith("backbone.")} == expected_names(config, lora is not None)


def test_our_names_are_fixed_points() -> None:
    for name in expected_names(TINY, lora=True) | {"memory_bank.q.weight", "head.classifier.0.bias", "normalise.std"}:
        assert our_name(name) == name


def test_the_published_detectors_size() -> None:
    """825 tensors; 855,964,610 values and 6 normalisation constants: what the published H+ file holds."""
    with torch.device("meta"):
        detector = MirrorDetector(DetectorConfig(known_backbone("dinov3_hplus")))
    state = detector.state_dict()
    sizes = {name: tensor.numel() for name, tensor in state.items()}
    lora = [size for name, size in sizes.items() if "lora_" in name]
    assert (len(sizes), sum(sizes.values())) == (825, 855_964_610 + 6)
    assert (len(lora), sum(lora)) == (192, 1_966_080)
    assert sum(size for name, size in sizes.items() if name.startswith("backbone.")) == 842_558_720
    assert sum(size for name, size in sizes.items() if name.startswith("memory_bank.")) == 11_797_760
    assert sum(size for name, size in sizes.items() if name.startswith("head.")) == 1_608_130
    assert Signature.of_tensors({our_name(name): tensor for name, tensor in state.items()}).known_as() == "dinov3_hplus"


@pytest.mark.parametrize("name", KNOWN_BACKBONES)
def test_signatures_tell_the_known_backbones_apart(name: str) -> None:
    with torch.device("meta"):
        state = MirrorDetector(DetectorConfig(known_backbone(name))).state_dict()
    signature = Signature.of_tensors({our_name(key): tensor for key, tensor in state.items()})
    assert signature == Signature.of_config(known_backbone(name))
    assert signature.known_as() == name


def test_backbone_folders(golden: GoldenSet) -> None:
    config = read_backbone_folder(golden.backbone_path)
    assert config.patch_px == (14 if golden.model == "v2" else 16)
    assert config.registers == (0 if golden.model == "v2" else 4)
    assert config.gated_mlp == (golden.model == "v3_gated")


def test_backbone_folders_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_backbone_folder(tmp_path)
    good = json.loads((SMALL.backbone_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "vit"}, "'vit' model"),
        ({"key_bias": True}, "key_bias = True"),
        ({"rope_theta": 10.0}, "rope_theta"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(good | change))
        with pytest.raises(CheckpointError, match=message):
            read_backbone_folder(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="no Hugging Face model config"):
        read_backbone_folder(tmp_path)


def test_train_mode_does_not_move_features() -> None:
    backbone = Backbone(TINY).train()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(backbone(pixels).tokens, backbone(pixels).tokens)
        noisy = Backbone(BackboneConfig(**{**TINY.__dict__, "rope_rescale": 2.0})).train()
        assert not torch.equal(noisy(pixels).tokens, noisy(pixels).tokens), "the augmentation exists, where asked for"


@pytest.mark.parametrize(("config", "tokens"), [(TINY, 4 + 14 * 14), (TINY_V2, 16 * 16)], ids=["dinov3", "dinov2"])
def test_features(config: BackboneConfig, tokens: int) -> None:
    features = Backbone(config).eval()(torch.randn(2, 3, 224, 224))
    assert features.cls.shape == (2, 32)
    assert features.tokens.shape == (2, tokens, 32)


def test_dropping_the_registers_is_a_variant() -> None:
    config = DetectorConfig(TINY, lora=None, drop_registers=True)
    detector = MirrorDetector(config).eval()
    with torch.inference_mode():
        assert detector.features(torch.rand(1, 3, 224, 224)).tokens.shape == (1, 196, 32)


def test_a_position_table_made_for_larger_images_is_interpolated() -> None:
    config = BackboneConfig("dinov2", width=32, depth=1, heads=4, mlp_width=64, patch_px=14, native_px=518)
    with torch.inference_mode():
        assert Backbone(config).eval()(torch.rand(1, 3, 224, 224)).tokens.shape == (1, 256, 32)


@pytest.mark.parametrize("config", [TINY, TINY_V2], ids=["dinov3", "dinov2"])
def test_fresh_lora_changes_nothing(config: BackboneConfig) -> None:
    backbone = Backbone(config).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = backbone(pixels)
        add_lora(backbone, LoraConfig())
        after = backbone(pixels)
    assert torch.equal(before.tokens, after.tokens)
    adapters = [name for name, _ in backbone.named_parameters() if "lora_" in name]
    assert len(adapters) == 2 * 3 * config.depth


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean dinov3_hplus\? Known: tiny, miniature, dinov2_l"):
        known_backbone("dinov3_h")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "dinov4"}, "family"),
        ({"heads": 5}, "not divisible"),
        ({"family": "dinov2"}, "no gated MLP"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_configs_that_make_no_sense(values: dict[str, object], message: str) -> None:
    config = DetectorConfig(TINY).to_dict()
    config["backbone"].update(values)
    with pytest.raises(ConfigError, match=message):
        DetectorConfig.from_dict(config)


def test_configs_survive_json() -> None:
    for lora in (None, LoraConfig(rank=4)):
        config = DetectorConfig(TINY, lora=lora)
        assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_whole_number_is_a_scale_too() -> None:
    config = DetectorConfig(TINY).to_dict()
    config["backbone"]["rope_rescale"] = 2
    assert Backbone(DetectorConfig.from_dict(config).backbone).config.rope_rescale == 2
    config["backbone"]["rope_rescale"] = 10**400
    with pytest.raises(ConfigError, match="rope_rescale"):
        DetectorConfig.from_dict(config)
