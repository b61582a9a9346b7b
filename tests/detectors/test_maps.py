"""Maps of tokens against the golden evidence, and that a value stands where its patch is."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_set import GoldenSet
from PIL import Image

from mirror_pl import load_detector
from mirror_pl.detectors import BackboneConfig, CropPolicy, DetectorConfig, HeadConfig, MirrorDetector
from mirror_pl.detectors.maps import token_maps
from mirror_pl.errors import ConfigError
from mirror_pl.images import Crop, PreprocessSpec, UndecodableImageError
from mirror_pl.images.pictures import PreparedPicture, prepare

KINDS = ("residual_norm", "entropy", "max_weight")
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def miniature() -> MirrorDetector:
    return load_detector("miniature")


def picture(width: int = 100, height: int = 80, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@torch.inference_mode()
def test_they_are_the_golden_evidence(golden: GoldenSet, golden_detector: MirrorDetector) -> None:
    """The golden means are over all tokens: with the registers, where there are any, back in, the maps give just those."""
    images = slice(None, None, 20)
    pixels = golden.pixels()[images]
    tokens, evidence = golden_detector.reconstruct(pixels.float() / 255)
    registers = golden_detector.config.backbone.registers
    of_tokens = {
        "residual_norm": (tokens - evidence.attended).norm(dim=-1),
        "entropy": evidence.entropy.mean(dim=1),
        "max_weight": evidence.max_weight.mean(dim=1),
    }
    columns = {"residual_norm": "mean_token_residual_norm", "entropy": "attention_entropy", "max_weight": "max_attention"}
    prepared = PreparedPicture(pixels.permute(0, 2, 3, 1).numpy(), (Crop((224, 224), 0, 0, 224),) * len(pixels), (224, 224))
    maps = token_maps(golden_detector, prepared, batch_size=3)
    edge = 224 // golden_detector.config.backbone.patch_px
    for name in KINDS:
        values = torch.from_numpy(np.stack([getattr(one, name) for one in maps]))
        assert values.shape == (len(pixels), edge, edge)
        assert values.dtype == torch.float32
        assert (values.flatten(1) - of_tokens[name][:, registers:]).abs().max() < 2e-5, name
        whole = torch.cat([of_tokens[name][:, :registers], values.flatten(1)], dim=1).mean(dim=1)
        expected = golden.column(columns[name])[images]
        assert (whole - expected).abs().max() < 1e-5, name
        if registers == 0:
            assert (values.mean(dim=(1, 2)) - expected).abs().max() < 1e-5, name
        else:  # left out, or the map would have no square to stand on
            assert (values.mean(dim=(1, 2)) - expected).abs().max() > 1e-5, name


def test_registers_kept_from_the_bank_change_nothing(miniature: MirrorDetector) -> None:
    """A token's retrieval does not depend on the others."""
    without = copy.deepcopy(miniature)
    without.config = replace(without.config, drop_registers=True)
    (one,), (other,) = miniature.maps(picture()), without.maps(picture())
    for name in KINDS:
        assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-5), name


def test_rows_are_rows(miniature: MirrorDetector) -> None:
    """A picture in two halves, left and right: its map changes from column to column, and not from row to row."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = picture(32, 64).convert("RGB")
    (maps,) = miniature.maps(pixels)
    for name in KINDS:
        values = getattr(maps, name)
        assert values.mean(axis=0).std() > 2 * values.mean(axis=1).std(), name
    (turned,) = miniature.maps(np.ascontiguousarray(pixels.transpose(1, 0, 2)))
    assert turned.entropy.mean(axis=1).std() > 2 * turned.entropy.mean(axis=0).std()


@pytest.mark.parametrize(("crops", "count"), [("center", 1), ("five", 5), ("multiscale", 3), ("native", 1)])
def test_one_a_crop(miniature: MirrorDetector, crops: str, count: int) -> None:
    shown = picture(700, 600)
    maps = miniature.maps(shown, policy=CropPolicy(crops=crops), batch_size=2)
    prepared = prepare(shown, miniature.spec, crops)
    assert [one.crop for one in maps] == list(prepared.plan)
    assert len(maps) == count
    assert {one.residual_norm.shape for one in maps} == {(8, 8)}
    assert {one.patch_px for one in maps} == {8}
    whole = token_maps(miniature, prepared)
    assert all(np.allclose(a.entropy, b.entropy, atol=1e-5) for a, b in zip(maps, whole, strict=True))
    for one in maps:
        assert (one.residual_norm >= 0).all()
        assert (one.entropy >= 0).all()
        assert (one.entropy <= np.log(miniature.config.memory_bank.top_k) + 1e-4).all()  # type: ignore[union-attr]
        assert (one.max_weight > 0).all()
        assert (one.max_weight <= 1).all()


def test_mixed_precision_is_finite_and_close(miniature: MirrorDetector) -> None:
    (exact,), (mixed,) = miniature.maps(picture()), miniature.maps(picture(), precision="bf16-mixed")
    assert mixed.residual_norm.dtype == np.float32
    assert np.abs(exact.residual_norm / mixed.residual_norm - 1).max() < 0.1


def test_what_cannot_be_mapped(miniature: MirrorDetector, tmp_path: Path) -> None:
    backbone = BackboneConfig("dinov3", width=32, depth=1, heads=2, mlp_width=32, registers=4)
    direct = MirrorDetector(DetectorConfig(backbone, lora=None, memory_bank=None, head=HeadConfig(inputs=("cls",)))).eval()
    with pytest.raises(ConfigError, match="no memory bank"):
        direct.maps(picture())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UndecodableImageError, match="cannot identify"):
        miniature.maps(tmp_path / "broken.png")
    assert token_maps(miniature, PreparedPicture(None, status="undecodable", reason="empty")) == []
    with pytest.raises(ConfigError, match="batch_size"):
        miniature.maps(picture(), batch_size=0)
    with pytest.raises(ConfigError, match="precision"):
        miniature.maps(picture(), precision="half")
    odd = copy.deepcopy(miniature)
    odd.spec = PreprocessSpec(crop_px=60)
    with pytest.raises(ConfigError, match="no grid"):
        odd.maps(picture())
    with pytest.raises(ConfigError, match="train mode"):
        copy.deepcopy(miniature).train().maps(picture())


@pytest.mark.slow
def test_the_measurement_of_planted_squares_runs(tmp_path: Path) -> None:
    """Decoders of a few steps: what it measures means nothing, and it must say something of each decoder and map."""
    command = [sys.executable, "bench/anomaly_map.py", "--pictures", "4", "--steps", "3", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.endswith("of 4 |")]
    assert len(rows) == 4 * len(KINDS)
    assert len(list(tmp_path.glob("*.png"))) == 4 * 4
