"""The Python API: pictures of every kind in, typed answers out, the golden scores among them."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_set import SMALL
from PIL import Image

from mirror_pl import load_detector
from mirror_pl.detectors import CropPolicy, MirrorDetector, Prediction
from mirror_pl.errors import ConfigError
from mirror_pl.images import decode, plan_crops


def golden_paths() -> list[Path]:
    return [SMALL.data_root / row["path"] for row in SMALL.rows()]


def test_the_golden_scores(small_detector: MirrorDetector) -> None:
    predictions = small_detector.predict(golden_paths(), batch_size=7)
    for row, prediction in zip(SMALL.rows(), predictions, strict=True):
        assert prediction.p_fake == pytest.approx(float(row["prob_fake"]), abs=1e-5)
        assert prediction.logit == pytest.approx(float(row["logit_fake"]) - float(row["logit_real"]), abs=1e-4)
        assert prediction.is_fake == (float(row["logit_fake"]) > float(row["logit_real"]))
        assert prediction.status == "ok"
        assert prediction.evidence["entropy"] == pytest.approx(float(row["attention_entropy"]), abs=1e-4)
        assert prediction.evidence["max_weight"] == pytest.approx(float(row["max_attention"]), abs=1e-5)
        assert prediction.evidence["residual_norm"] == pytest.approx(float(row["norm_of_mean_residual"]), rel=1e-4)


def test_one_picture_in_every_form(small_detector: MirrorDetector) -> None:
    path = next(path for path in golden_paths() if path.suffix == ".png")
    alone = small_detector.predict(path)
    assert isinstance(alone, Prediction)
    assert small_detector.predict(str(path)) == alone
    assert small_detector.predict([path]) == [alone]
    assert [round(p.logit or 0, 4) for p in small_detector.predict((str(path), path))] == [round(alone.logit or 0, 4)] * 2
    assert small_detector.predict(path.read_bytes()) == alone, "bytes of a PNG are aligned as a .png file is"
    with Image.open(path) as opened:
        assert small_detector.predict(opened) == alone
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        assert small_detector.predict(opened) == alone, "an image without a file's name goes by its format"
    image = decode(path).image
    pixels = np.asarray(image)
    plain = small_detector.predict(pixels)
    assert plain.logit != alone.logit, "pixels are not aligned"
    assert small_detector.predict(torch.from_numpy(pixels.copy()).permute(2, 0, 1)) == plain
    assert small_detector.predict(pixels / np.float32(255)) == plain
    assert small_detector.predict(image.copy()) == plain


def test_crops_are_scored_each_and_together(small_detector: MirrorDetector) -> None:
    path = next(path for path in golden_paths() if path.suffix == ".jpg")
    policy = CropPolicy("five", "median", "score")
    together = small_detector.predict(path, policy=policy, batch_size=2)
    image = decode(path).image
    assert [score.crop for score in together.crops] == list(plan_crops(image.size, small_detector.spec, "five"))
    center = small_detector.predict(path)
    assert together.crops[4].logit == pytest.approx(center.logit, abs=1e-5)
    logits = torch.tensor([[score.logit for score in together.crops]])
    assert together.p_fake == pytest.approx(float(policy(logits)[1]), abs=1e-6)
    assert together.size == image.size


def test_what_cannot_be_read_has_a_reason(small_detector: MirrorDetector, tmp_path: Path) -> None:
    whole = next(path for path in golden_paths() if path.suffix == ".png")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "no.jpg").write_text("no image")
    found = small_detector.predict([tmp_path / "no.jpg", whole, tmp_path / "nowhere.png", tmp_path / "cut.png", b""])
    assert [prediction.status for prediction in found] == ["undecodable", "ok", "undecodable", "truncated", "undecodable"]
    assert found[0].logit is None
    assert found[0].is_fake is None
    assert "cannot identify" in found[0].reason
    assert "No such file" in found[2].reason
    assert found[3].logit is not None
    assert "truncated" in found[3].reason
    assert small_detector.predict([]) == []
    assert small_detector.predict(tmp_path / "no.jpg").p_fake is None


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (3, TypeError, "must be a path, bytes, an image or pixels; got int"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(H, W, 3\), got \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.int64), ValueError, "uint8 in .* got int64"),
        (np.full((4, 4, 3), 2.0), ValueError, "must be in"),
        (np.full((4, 4, 3), np.nan), ValueError, "must be in"),
        (torch.zeros(4, 4, 3), ValueError, r"\(3, H, W\), got \(4, 4, 3\)"),
    ],
)
def test_what_is_no_picture(small_detector: MirrorDetector, picture: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small_detector.predict(picture)  # type: ignore[call-overload]


def test_settings_out_of_range(small_detector: MirrorDetector) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ConfigError, match="batch_size"):
        small_detector.predict(pixels, batch_size=0)
    with pytest.raises(ConfigError, match="precision must be one of 32-true"):
        small_detector.predict(pixels, precision="bf16")
    small_detector.train()
    try:
        with pytest.raises(ConfigError, match="train mode"):
            small_detector.predict(pixels)
    finally:
        small_detector.eval()


def test_precision(small_detector: MirrorDetector) -> None:
    paths = golden_paths()[:6]
    exact = [prediction.p_fake for prediction in small_detector.predict(paths)]
    mixed = [prediction.p_fake for prediction in small_detector.predict(paths, precision="bf16-mixed")]
    assert exact != mixed
    assert max(abs(a - b) for a, b in zip(exact, mixed, strict=True)) < 0.02  # type: ignore[operator]
    for ask in (small_detector.predict, small_detector.maps):
        with pytest.raises(
            ConfigError, match=r"weights .* are torch.float32, .* load_detector\(..., dtype=torch.bfloat16\)"
        ):
            ask(paths[0], precision="bf16-true")


def test_no_trace_in_the_process(small_detector: MirrorDetector, capfd: pytest.CaptureFixture[str]) -> None:
    state, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    small_detector.predict(golden_paths()[:3])
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert capfd.readouterr() == ("", "")


def test_four_threads_give_the_scores_of_one(small_detector: MirrorDetector, tmp_path: Path) -> None:
    paths = golden_paths()
    cut = tmp_path / "cut.png"
    cut.write_bytes(next(path for path in paths if path.suffix == ".png").read_bytes()[:-2000])
    paths = [*paths, cut, cut]
    alone = [small_detector.predict(path) for path in paths]
    assert alone[-1].status == "truncated"
    small_detector.memory_bank._projected = None  # so that the threads meet it unprepared
    with ThreadPoolExecutor(4) as threads:
        for _ in range(2):
            assert list(threads.map(small_detector.predict, paths)) == alone


def test_the_miniature_by_name_and_no_framework() -> None:
    code = (
        "import sys; from mirror_pl import load_detector; import numpy as np;"
        "print(load_detector('miniature').predict(np.zeros((70, 90, 3), np.uint8)).status,"
        "[name for name in ('hydra', 'omegaconf', 'lightning', 'wandb', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ok []"


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("miniature").mkdir()
    with pytest.raises(Exception, match="miniature"):
        load_detector("miniature")


def test_a_backbone_may_be_called_by_its_name() -> None:
    found = load_detector("miniature", backbone="miniature")
    assert found.config == load_detector("miniature").config
    with pytest.raises(ConfigError, match=r"unknown backbone 'dinov3_m'\. Did you mean dinov3_"):
        load_detector("miniature", backbone="dinov3_m")
