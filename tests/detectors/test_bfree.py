"""B-Free: equal to the golden scores, windows of images of all sizes in one batch, and all or nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_set import TOLERANCE, BaselineSet, changed, logits_of, saved, says_cuda
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirror_pl.detectors.bfree import SPEC, BfreeDetector, distinct_windows
from mirror_pl.errors import CheckpointError
from mirror_pl.images import PreprocessSpec, UndecodableImageError, decode, plan_crops
from mirror_pl.images.pictures import prepare

GOLDEN = BaselineSet("bfree")
FOLDER = GOLDEN.folder / "weights" / "BFREE_dino2reg4"
FILE = FOLDER / "model_epoch_best.pth"


@pytest.fixture(scope="module")
def detector() -> Iterator[BfreeDetector]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower with more
    yield BfreeDetector.load(FOLDER, size=GOLDEN.size)
    torch.set_num_threads(threads)


def test_golden_scores_in_batches(detector: BfreeDetector) -> None:
    """Windows of several images, sizes mixed, and with a batch that ends inside of an image."""
    assert GOLDEN.largest_difference(logits_of(detector, GOLDEN.paths(), batch_size=38)) < TOLERANCE


@torch.inference_mode()
def test_golden_scores_one_by_one(detector: BfreeDetector) -> None:
    """Each window's logit and feature as well."""
    golden, logits = GOLDEN.intermediates(), []
    for number, path in enumerate(GOLDEN.paths()):
        pixels = prepare(path, detector.spec, detector.protocol.crops).pixels
        assert pixels is not None
        assert pixels.shape == (5, 504, 504, 3)
        verdict = detector(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        np.testing.assert_allclose(verdict.logit, golden["window_logits"][number], atol=TOLERANCE)
        np.testing.assert_allclose(verdict.evidence["feature"], golden["window_features"][number], atol=1e-5)
        logits.append(detector.protocol(verdict.logit[None])[0])
    assert GOLDEN.largest_difference(torch.cat(logits)) < TOLERANCE


def token_windows(width: int, height: int) -> list[tuple[list[int], list[int]]]:
    """The published rule, on a map of patches: which columns and rows each window is made of, in pixels of their origins."""
    columns, rows = width // 14, height // 14
    if columns < 36 or rows < 36:
        return [([14 * (i % columns) for i in range(36)], [14 * (i % rows) for i in range(36)])] * 5
    left, top, right, bottom = (columns - 36) // 2, (rows - 36) // 2, columns - 36, rows - 36
    origins = [(left, top), (0, 0), (0, bottom), (right, bottom), (right, 0)]
    return [([14 * (x + i) for i in range(36)], [14 * (y + i) for i in range(36)]) for x, y in origins]


@given(st.integers(14, 1300), st.integers(14, 1300))
def test_windows_are_those_of_the_map_of_patches(width: int, height: int) -> None:
    plan = plan_crops((width, height), SPEC, "windows")
    for crop, (columns, rows) in zip(plan, token_windows(width, height), strict=True):
        across, down = crop.period or (width, height)
        assert [(crop.left + 14 * i) % across for i in range(36)] == columns
        assert [(crop.top + 14 * i) % down for i in range(36)] == rows
        assert across % 14 == down % 14 == 0 or crop.period is None


@torch.inference_mode()
def test_a_window_is_scored_once(detector: BfreeDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    feature = detector.feature

    def counted(pixels: Tensor) -> Tensor:
        scored.append(len(pixels))
        return feature(pixels)

    monkeypatch.setattr(detector, "feature", counted)
    rng = np.random.default_rng(0)
    for (width, height), distinct in {
        (504, 504): 1,
        (200, 300): 1,
        (200, 900): 1,
        (560, 510): 3,
        (510, 560): 3,
        (540, 550): 5,
    }.items():
        scored.clear()
        prediction = detector.predict(rng.integers(0, 256, (height, width, 3), np.uint8))
        assert scored == [distinct], (width, height)
        assert len(prediction.crops) == 5
        assert prediction.logit == pytest.approx(np.mean([crop.logit for crop in prediction.crops]), abs=1e-6)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_distinct_windows(values: list[int]) -> None:
    pixels = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    kept, place = distinct_windows(pixels)
    assert torch.equal(pixels[kept][place], pixels)
    assert kept.tolist() == sorted(set(kept.tolist()))
    for window in range(len(values)):
        assert (window in kept.tolist()) == (values[window] not in values[max(0, window - 4) : window])


def test_pictures_that_are_too_small(detector: BfreeDetector) -> None:
    """The published code ends with an error; here the picture has a reason in place of a score."""
    small, fine = np.zeros((13, 90, 3), np.uint8), np.zeros((14, 14, 3), np.uint8)
    refused, scored = detector.predict([small, fine])
    assert (refused.status, refused.reason) == ("undecodable", "smaller than 14 px: 90 x 13")
    assert (scored.status, len(scored.crops)) == ("ok", 5)
    with pytest.raises(UndecodableImageError):
        plan_crops((13, 90), PreprocessSpec(), "windows")


def test_whole_images_in_every_form(detector: BfreeDetector) -> None:
    path = GOLDEN.paths()[0]
    array = np.array(decode(path).image)
    expected = pytest.approx(float(GOLDEN.logits()[0]), abs=TOLERANCE)
    assert detector.predict(array).logit == expected
    assert detector.predict([torch.from_numpy(array).permute(2, 0, 1), path])[0].logit == expected
    with pytest.raises(ValueError, match=r"must be \(B, 3, 504, 504\)"):
        detector(torch.zeros(1, 3, 518, 518))


def test_the_published_size() -> None:
    """DINOv2 ViT-B/14 with registers and 36 x 36 positions in place of 37 x 37, and the linear layer."""
    with torch.device("meta"):
        detector = BfreeDetector()
    assert sum(parameter.numel() for parameter in detector.parameters()) == 86_583_552 - (37**2 - 36**2) * 768 + 769


def test_a_file_saved_on_a_gpu_and_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = torch.load(FILE, map_location="cpu", weights_only=True)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = saved(tmp_path / "x.pth", model)
    assert says_cuda(path)
    loaded = BfreeDetector.load(path, size=GOLDEN.size)
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "B-Free: code and weights by GRIP-UNINA, for non-profit use only" in record.getMessage()
    away = BfreeDetector.load(path, size=GOLDEN.size, device="meta", dtype=torch.bfloat16)
    assert {tensor.device.type for tensor in (*away.parameters(), *away.buffers())} == {"meta"}


@pytest.mark.parametrize("how", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("head.bias", "head.bias"),
        ("pos_embed", "backbone.embeddings.position_embeddings"),
        ("reg_token", "backbone.embeddings.register_tokens"),
        ("blocks.1.mlp.fc1.bias", "backbone.layers.1.mlp.up.bias"),
    ],
)
def test_all_or_nothing(tmp_path: Path, name: str, ours: str, how: str) -> None:
    model = torch.load(FILE, map_location="cpu", weights_only=True)["model"]
    path = saved(tmp_path / "x.pth", {"model": changed(model, how, name)})
    with pytest.raises(CheckpointError, match=rf"1 {how}: ") as error:
        BfreeDetector.load(path, size=GOLDEN.size)
    assert (ours if how != "unexpected" else "extra") in str(error.value)


def test_files_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit B-Free .*width 768, 12 layers"):
        BfreeDetector.load(FOLDER)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.yaml in the folder .*; expected that and model_epoch_best"):
        BfreeDetector.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="does not exist"):
        BfreeDetector.load(tmp_path / "none.pth")
    shutil.copytree(FOLDER, tmp_path / "x")
    config = tmp_path / "x" / "config.yaml"
    text = config.read_text()
    for change, said in (
        (("504", "224"), "has arch = 'timm_c5i224_.*; B-Free's has 'timm_c5i504_"),
        (("resnet", "clip"), "has norm_type = 'clip'"),
        (("model_epoch_best.pth", "../x.pth"), "outside its folder"),
        (("model_epoch_best.pth", "other.pth"), "other.pth does not exist"),
        ((text, "- a\n- b\n"), "expected keys and values"),
        ((text, "a: [b\n"), "cannot be read"),
    ):
        config.write_text(text.replace(*change))
        with pytest.raises(CheckpointError, match=said):
            BfreeDetector.load(tmp_path / "x", size=GOLDEN.size)


def test_a_truncated_file(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(FILE.read_bytes()[: 2**18])
    with pytest.raises(CheckpointError, match="no PyTorch checkpoint, or a truncated one"):
        BfreeDetector.load(tmp_path / "x.pth")
