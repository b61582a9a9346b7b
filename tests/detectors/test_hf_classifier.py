"""Image classifiers of transformers: made here on the spot, equal to transformers' own pipeline, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from golden_set import SMALL
from PIL import Image

from mirror_pl import load_detector
from mirror_pl.config.command import compose
from mirror_pl.detectors.classifier import fake_classes
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.jobs import eval as evaluation

SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SLOW: dict[str, Any] = {"use_fast": False} if transformers.__version__.startswith("4.") else {"backend": "pil"}

# Of each model its config, and the settings of its own image processor, as their pages on the hub have them, but smaller.
MODELS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": (
        "vit", {**SMALL_VIT, "image_size": 32, "patch_size": 8},
        "ViT", {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
    "swin": (
        "swin", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4},
        "ViT", {
            "size": {"height": 32, "width": 32}, "resample": 3,
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "convnext": (
        "convnext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "ConvNext", {"size": {"shortest_edge": 56}, "crop_pct": 0.875, "resample": 3},
    ),
    "convnext_384": (
        "convnext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3},
    ),
    "siglip": (
        "siglip", {"vision_config": {**SMALL_VIT, "image_size": 32, "patch_size": 8}},
        "Siglip", {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
    "dinov2": (
        "dinov2", {k: v for k, v in SMALL_VIT.items() if k != "intermediate_size"} | {"image_size": 28, "patch_size": 14},
        "Bit", {
            "size": {"shortest_edge": 33}, "crop_size": {"height": 28, "width": 28}, "resample": 3, "do_center_crop": True,
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        },
    ),
}  # fmt: skip


def made(folder: Path, name: str, labels: tuple[str, ...] = ("real", "fake"), **changed: Any) -> Path:
    """Write a classifier with random weights as transformers writes one."""
    kind, sizes, processor, values = MODELS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, **sizes, id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)}
    )
    model = transformers.AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    described = {"image_processor_type": f"{processor}ImageProcessor", **values, **changed}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return folder


def pictures() -> list[Path]:
    """Of all shapes and modes that transformers opens as the recipe does; it turns by EXIF, which its models are not told."""
    paths = sorted((SMALL.data_root / "WildRF").rglob("*.*"))[:12]
    kept = []
    for path in paths:
        with Image.open(path) as image:
            if image.getexif().get(0x0112, 1) == 1:
                kept.append(path)
    assert len(kept) > 6
    return kept


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_pipeline(name: str, tmp_path: Path) -> None:
    folder = made(tmp_path / name, name)
    detector = load_detector(folder, detector="hf_classifier")
    pipeline = transformers.pipeline(
        "image-classification",
        model=str(folder),
        image_processor=transformers.AutoImageProcessor.from_pretrained(folder, **SLOW),
    )
    paths = pictures()
    expected = pipeline([str(path) for path in paths], function_to_apply="none", top_k=2)
    theirs = [{each["label"]: each["score"] for each in one} for one in expected]
    found = detector.predict(paths, batch_size=5)
    assert {len(one) for one in theirs} == {2}
    for mine, logits in zip(found, theirs, strict=True):
        assert mine.logit == pytest.approx(logits["fake"] - logits["real"], abs=1e-5)
    assert np.std([mine.logit for mine in found]) > 1e-3
    assert detector.name == name
    assert detector.description()["fake_labels"] == ["fake"]


def test_it_is_evaluated(tmp_path: Path) -> None:
    folder = made(tmp_path / "vit", "vit", ("artificial", "human"))
    given = ["detector=hf_classifier", f"checkpoint={folder}", "benchmark=wildrf", f"data_root={SMALL.data_root}"]
    more = [f"output_dir={tmp_path}/run", "trainer.accelerator=cpu", "num_workers=0", "~callbacks.progress"]
    evaluation.run(compose("eval", [*given, *more]))
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["detector"]["fake_labels"] == ["artificial"]
    assert run["detector"]["preprocess"]["squash_px"] == 32


@pytest.mark.parametrize(
    ("labels", "asked", "expected"),
    [
        (("real", "fake"), None, [1]),
        (("AI-generated", "Human"), None, [0]),
        (("artificial", "hum"), None, [0]),
        (("Realism", "Deepfake"), "Deepfake", [1]),
        (("real", "gan", "diffusion"), None, [1, 2]),
        (("LABEL_0", "LABEL_1"), "LABEL_0", [0]),
        (("a", "b", "c"), ["a", "c"], [0, 2]),
        (("fake",), None, [0]),
        (("0", "1"), 1, [1]),  # as the command line has detector.fake_label=1
        (("0", "1", "2"), [0, 2], [0, 2]),
    ],
)
def test_which_label_is_fake(labels: tuple[str, ...], asked: Any, expected: list[int]) -> None:
    assert fake_classes(labels, asked) == expected


@pytest.mark.parametrize(
    ("labels", "asked", "said"),
    [
        (("LABEL_0", "LABEL_1"), None, "cannot be told from their names: LABEL_0, LABEL_1; give detector.fake_label="),
        (("fake", "not fake"), None, "cannot be told"),
        (("real fake", "x"), None, "cannot be told"),
        (("cat", "dog"), None, "cannot be told"),
        (("real", "human"), None, "some must mean fake and some real"),
        (("real", "fake"), "fakes", r"no label 'fakes'. Did you mean fake\? There are: real, fake"),
        (("real", "fake"), ["real", "fake"], "some must mean fake and some real"),
    ],
)
def test_undecidable_labels_are_refused(labels: tuple[str, ...], asked: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fake_classes(labels, asked)


def test_several_classes_make_one_logit(tmp_path: Path) -> None:
    folder = made(tmp_path / "vit", "vit", ("real", "gan", "diffusion"))
    detector = load_detector(folder, detector="hf_classifier")
    with torch.inference_mode():
        verdict = detector(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    share = verdict.evidence["logits"].double().softmax(dim=1)
    expected = (share[:, 1:].sum(dim=1) / share[:, 0]).log()
    torch.testing.assert_close(verdict.logit.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_processor_type": "MobileViTImageProcessor"}, "is a MobileViTImageProcessor.*; known are ViT, DeiT"),
        ({"size": {"height": 32, "width": 30}}, "does not make squares of one size"),
        ({"size": {"shortest_edge": 32}}, "does not make squares of one size"),
        ({"do_resize": False}, "does not make squares of one size"),
        ({"image_std": [0, 0, 0]}, "makes no recipe: std must be"),
        ({"image_mean": [0.5]}, "makes no recipe"),
        ({"image_mean": "x"}, "makes no recipe"),  # null is its default under 4.57, and refused under 5.x
        ({"rescale_factor": 0}, "makes no recipe"),
        ({"rescale_factor": "x"}, "makes no recipe"),
        ({"size": {"height": 32.5, "width": 32.5}}, "crop_px must be a whole number"),
        ({"size": {"height": 64, "width": 64}}, "does not take what its recipe makes, images of 64 px"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0},
            "makes no recipe",
        ),
    ],
)
def test_a_processor_that_makes_no_recipe(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_detector(made(tmp_path / "x", "vit", **change), detector="hf_classifier")


def test_a_folder_that_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no config\.json in .* Expected the folder of a Hugging Face image classifier"
    ):
        load_detector(tmp_path, detector="hf_classifier")
    folder = made(tmp_path / "vit", "vit")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers as an image classifier"):
        load_detector(folder, detector="hf_classifier")


def test_labels_of_classes_that_are_not_there(tmp_path: Path) -> None:
    folder = made(tmp_path / "vit", "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "real", "5": "fake"}}))
    with pytest.raises(CheckpointError, match=r"has labels for the classes \[0, 5\]"):
        load_detector(folder, detector="hf_classifier")


def test_all_or_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = made(tmp_path / "vit", "vit")
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has missing keys: classifier\.bias"):
        load_detector(folder, detector="hf_classifier")
