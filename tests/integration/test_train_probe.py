"""The linear probe as a user trains it: it fits as scikit-learn's logistic regression does, and is a detector like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mirror_pl.config.command import compose
from mirror_pl.detectors import MirrorDetector, load_detector
from mirror_pl.errors import ConfigError
from mirror_pl.images.pictures import prepare
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs.train import run

IMAGES = 100


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of four colours each, the brighter ones fakes, but for one in six: there is a best line, and it errs."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        colours = rng.integers(0, 256, (2, 2, 3), np.uint8)
        is_fake = bool(colours.mean() > 127) != (rng.random() < 1 / 6)
        (folder / ("0_real", "1_fake")[is_fake]).mkdir(exist_ok=True)
        square = Image.fromarray(colours).resize((32, 32), Image.Resampling.NEAREST)
        square.save(folder / ("0_real", "1_fake")[is_fake] / f"{number:03d}.jpg", quality=95)
    return folder


def overrides(output: Path, images: Path, *more: str) -> list[str]:
    return [
        "phase=probe", "backbone=tiny", "phase.self_contained=true", "augment=fixed", "augment.crop_px=32", f"data.root={images}",
        f"output_dir={output}", "trainer.accelerator=cpu", "logger=none", f"batch_size={IMAGES // 2}", "num_workers=0",
        f"paths.outputs={output.parent}", "~callbacks.progress", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("train") / "run"
    settings = ["phase.epochs=150", "optimizer.weight_decay=0", "optimizer.lr=1", f"+validation.own={images}"]
    run(compose("train", overrides(output, images, *settings, "trainer.check_val_every_n_epoch=150")))
    return output


def features_of(detector: MirrorDetector, images: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(images.rglob("*.jpg"))
    pixels = np.concatenate([prepare(file, detector.spec).pixels for file in files])
    with torch.inference_mode():
        cls = detector.features(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).cls
    return cls.double().numpy(), np.array([file.parent.name == "1_fake" for file in files])


def test_it_fits_as_a_logistic_regression_does(trained: Path, images: Path) -> None:
    """Better than scikit-learn's at its default strength, which is between a start from scratch and what no end would reach."""
    detector = load_detector(trained / "last.ckpt")
    features, labels = features_of(detector, images)
    usual, lowest = (
        log_loss(labels, LogisticRegression(C=strength, max_iter=10_000).fit(features, labels).predict_proba(features)[:, 1])
        for strength in (1.0, np.inf)
    )
    scores = [prediction.p_fake for prediction in detector.predict(sorted(images.rglob("*.jpg")))]
    assert lowest <= log_loss(labels, scores) <= usual


def test_the_head_alone_is_learnt(trained: Path, images: Path, tmp_path: Path) -> None:
    run(compose("train", overrides(tmp_path / "other", images, "phase.epochs=1")))
    one, two = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (trained, tmp_path / "other")
    )
    assert one.keys() == two.keys()
    different = {name for name in one if not torch.equal(one[name], two[name])}
    assert different == {"head.classifier.weight", "head.classifier.bias"}
    assert not [name for name in one if name.startswith("memory_bank.") or ".lora_" in name]


def test_it_is_evaluated_like_any_other(trained: Path, images: Path, tmp_path: Path) -> None:
    settings = ["benchmark=folder", f"data_root={images}", f"checkpoint={trained}/best.ckpt", "trainer.accelerator=cpu"]
    settings += ["num_workers=0", "~callbacks.progress", f"paths.outputs={tmp_path}"]
    evaluation.run(compose("eval", [*settings, f"output_dir={tmp_path}/run", "detector=linear_probe"]))
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["detector"]["name"] == "linear_probe/tiny"
    bal_acc = json.loads((tmp_path / "run/metrics.json").read_text())["mean"]["bal_acc"]
    assert bal_acc == pytest.approx(json.loads((trained / "run.json").read_text())["best"]["bal_acc"]["own"])
    with pytest.raises(ConfigError, match=r"detector=direct: .* holds a linear_probe, whose head looks at cls"):
        evaluation.run(compose("eval", [*settings, f"output_dir={tmp_path}/no", "detector=direct"]))


def test_what_is_no_probe_is_refused(images: Path, tmp_path: Path) -> None:
    for settings, message in (
        (["detector=direct"], "phase=probe learns detector=linear_probe"),
        (["phase.lora_rank=8"], "detector=linear_probe has a frozen backbone"),
        (["phase=detector", "detector=linear_probe"], "use phase=probe"),
        (["memory_path=x"], "detector=linear_probe has no memory bank"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(compose("train", overrides(tmp_path / "no", images, *settings)))
    assert not (tmp_path / "no").exists()
