"""DDA: equal to the golden scores with adapters merged and apart, and all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_set import TOLERANCE, BaselineSet, changed, logits_of, saved, says_cuda

from mirror_pl.detectors.dda import DdaDetector, resampled_positions
from mirror_pl.detectors.registry import load_detector
from mirror_pl.errors import CheckpointError
from mirror_pl.files import path_sha256
from mirror_pl.images.pictures import prepare

GOLDEN = BaselineSet("dda")
FILE = GOLDEN.folder / "DDA_ckpt.pth"
LAYER = "base_model.model.blocks.1."


def content() -> dict[str, Any]:
    return torch.load(FILE, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module", params=[True, False], ids=["merged", "apart"])
def detector(request: pytest.FixtureRequest) -> Iterator[DdaDetector]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower with more
    yield DdaDetector.load(FILE, size=GOLDEN.size, merge=request.param)
    torch.set_num_threads(threads)


def test_golden_scores_in_batches(detector: DdaDetector) -> None:
    assert GOLDEN.largest_difference(logits_of(detector, GOLDEN.paths(), batch_size=16)) < TOLERANCE


def test_golden_scores_one_by_one(detector: DdaDetector) -> None:
    assert GOLDEN.largest_difference(torch.cat([logits_of(detector, [path]) for path in GOLDEN.paths()])) < TOLERANCE


@torch.inference_mode()
def test_pixels_and_features(detector: DdaDetector) -> None:
    golden = GOLDEN.intermediates()
    prepared = [prepare(path, detector.spec).pixels for path in GOLDEN.paths()]
    pixels = torch.from_numpy(np.concatenate([one for one in prepared if one is not None])).permute(0, 3, 1, 2)
    normalised = detector.normalise(pixels.float() / 255)
    np.testing.assert_allclose(normalised.mean(dim=(2, 3)), golden["input_mean"], atol=2e-6)
    np.testing.assert_allclose(normalised.std(dim=(2, 3)), golden["input_std"], atol=2e-5)
    np.testing.assert_allclose(detector(pixels).evidence["feature"], golden["feature"], atol=1e-5)


def test_the_position_table() -> None:
    table = content()["model"]["base_model.model.pos_embed"]
    found = resampled_positions(table, 24)
    assert found.shape == (1, 577, 64)
    np.testing.assert_allclose(found, GOLDEN.intermediates()["pos_embed_336"], atol=1e-6)
    assert torch.equal(found[:, 0], table[:, 0])


def test_adapters_are_merged_or_kept() -> None:
    merged, apart = (DdaDetector.load(FILE, size=GOLDEN.size, merge=merge) for merge in (True, False))
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    adapters = [name for name, _ in apart.named_parameters() if "lora_" in name]
    assert len(adapters) == 2 * 2 * 6, "A and B of q, k, v, o, up and down of two layers"
    assert (merged.lora, apart.lora and apart.lora.scaling) == (None, 1 / 8)


def test_merging_does_not_reach_the_file() -> None:
    before = path_sha256(FILE)
    DdaDetector.load(FILE, size=GOLDEN.size)
    assert path_sha256(FILE) == before


def test_the_published_size() -> None:
    """DINOv2 ViT-L/14 with 24 x 24 positions in place of 37 x 37, and the linear layer."""
    with torch.device("meta"):
        detector = DdaDetector()
    assert sum(parameter.numel() for parameter in detector.parameters()) == 304_368_640 - (37**2 - 24**2) * 1024 + 1025


def test_a_file_saved_on_a_gpu() -> None:
    assert says_cuda(FILE)
    loaded = load_baseline_of_the_golden_size()
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}
    away = DdaDetector.load(FILE, size=GOLDEN.size, device="meta", dtype=torch.bfloat16)
    assert {tensor.device.type for tensor in (*away.parameters(), *away.buffers())} == {"meta"}
    assert (away.head.weight.dtype, next(away.backbone.parameters()).dtype) == (torch.float32, torch.bfloat16)


def load_baseline_of_the_golden_size() -> DdaDetector:
    with pytest.raises(CheckpointError, match=r"does not fit DDA .*width 1024, 24 layers"):
        load_detector(FILE, detector="dda")
    return DdaDetector.load(FILE, size=GOLDEN.size)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("how", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("base_model.fc.weight", "head.weight"),
        ("base_model.model.pos_embed", "backbone.embeddings.position_embeddings"),
        ("base_model.model.mask_token", "backbone.embeddings.mask_token"),
        (f"{LAYER}mlp.fc2.lora.lora_A", "backbone.layers.1.mlp.down.lora_a"),
        (f"{LAYER}attn.proj.lora.lora_B", "backbone.layers.1.attention.o.lora_b"),
        (f"{LAYER}ls1.gamma", "backbone.layers.1.layer_scale1"),
    ],
)
def test_all_or_nothing(tmp_path: Path, name: str, ours: str, how: str, merge: bool) -> None:
    path = saved(tmp_path / "x.pth", {"model": changed(content()["model"], how, name)})
    with pytest.raises(CheckpointError, match=rf"1 {how}: ") as error:
        DdaDetector.load(path, size=GOLDEN.size, merge=merge)
    assert (ours if how != "unexpected" else "extra") in str(error.value)


def test_parts_of_the_attention(tmp_path: Path) -> None:
    """One tensor there is three here."""
    for part in ("original_layer.weight", "original_layer.bias", "lora.lora_A", "lora.lora_B"):
        name = f"{LAYER}attn.qkv.{part}"
        path = saved(tmp_path / "x.pth", changed(content()["model"], "missing", name))
        with pytest.raises(CheckpointError, match=r"3 missing: backbone.layers.1.attention.[qkv]"):
            DdaDetector.load(path, size=GOLDEN.size)
        for tensor in (torch.zeros(()), torch.zeros(1), torch.zeros(191, 64)):
            path = saved(tmp_path / "x.pth", content()["model"] | {name: tensor})
            with pytest.raises(CheckpointError, match="does not fit DDA"):
                DdaDetector.load(path, size=GOLDEN.size)


def test_a_tensor_twice(tmp_path: Path) -> None:
    model = content()["model"]
    model[f"{LAYER}mlp.fc1.weight"] = model[f"{LAYER}mlp.fc1.original_layer.weight"]
    with pytest.raises(CheckpointError, match=rf"1 unexpected: {LAYER}mlp.fc1.weight"):
        DdaDetector.load(saved(tmp_path / "x.pth", model), size=GOLDEN.size)


def test_a_last_layer_that_is_missing(tmp_path: Path) -> None:
    """It is no smaller detector."""
    model = {name: tensor for name, tensor in content()["model"].items() if not name.startswith(LAYER)}
    with pytest.raises(CheckpointError, match=r"missing: backbone\.layers\.1\."):
        DdaDetector.load(saved(tmp_path / "x.pth", model), size=GOLDEN.size)


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(FILE.read_bytes()[: 2**19])
    with pytest.raises(CheckpointError, match="no PyTorch checkpoint, or a truncated one"):
        DdaDetector.load(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        DdaDetector.load(tmp_path / "none.pth")
