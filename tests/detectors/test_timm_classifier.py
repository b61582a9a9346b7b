"""Image classifiers of timm, as its hub exporter writes them: equal to timm's own evaluation. Skipped where timm is not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_set import SMALL
from PIL import Image
from safetensors.torch import load_file, save_file

from mirror_pl import load_detector
from mirror_pl.errors import CheckpointError, ConfigError

with suppress(RuntimeError):  # timm imports torchvision, whose operators may not be built for this torch; none is called
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

timm: Any = pytest.importorskip("timm", reason="timm is not installed: pip install 'mirror_pl[timm]'", exc_type=ImportError)

MODELS = {
    "vit": ("vit_tiny_patch16_224", {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32}, {"crop_pct": 0.9}),
    "resnet": ("resnet18", {"channels": [8, 8, 8, 8]}, {"crop_pct": 0.95, "interpolation": "bilinear"}),
    "squashed": ("resnet18", {"channels": [8, 8, 8, 8]}, {"crop_pct": 1.0, "crop_mode": "squash"}),
}


def made(folder: Path, name: str, labels: list[str] | None, **changed: Any) -> Path:
    architecture, arguments, transform = MODELS[name]
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=2, **arguments)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")  # without metadata, as timm's are
    data = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", **transform}
    described: dict[str, Any] = {"architecture": architecture, "num_classes": 2, "model_args": arguments}
    described |= {"pretrained_cfg": {**data, **changed}}
    (folder / "config.json").write_text(json.dumps(described | ({"label_names": labels} if labels else {})))
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_timm(name: str, tmp_path: Path) -> None:
    folder = made(tmp_path / name, name, ["fake", "real"])
    architecture, arguments, _ = MODELS[name]
    model = timm.create_model(architecture, num_classes=2, **arguments).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    paths = sorted((SMALL.data_root / "WildRF").rglob("*.*"))[:12]
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        expected = model(pixels)
    found = load_detector(folder, detector="timm_classifier").predict(paths, batch_size=5)
    np.testing.assert_allclose([one.logit for one in found], expected[:, 0] - expected[:, 1], atol=1e-5)


def test_what_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "plain", "resnet", None)
    with pytest.raises(ConfigError, match=r"cannot be told from their names: 0, 1; give detector\.fake_label="):
        load_detector(folder, detector="timm_classifier")
    assert load_detector(folder, detector="timm_classifier", fake_label="1").description()["fake_labels"] == ["1"]
    with pytest.raises(CheckpointError, match="with crop_mode 'border'; known are squares"):
        load_detector(
            made(tmp_path / "border", "resnet", None, crop_mode="border"), detector="timm_classifier", fake_label="1"
        )
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != "fc.bias"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit timm's resnet18\n  1 missing: fc\.bias"):
        load_detector(folder, detector="timm_classifier", fake_label="1")
    with pytest.raises(CheckpointError, match="is no image classifier of timm"):
        load_detector(tmp_path, detector="timm_classifier")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "hf-hub:org/name"}, "would load other files"),
        ({"model_args": {"checkpoint_path": "other.pth"}}, "would load other files"),
        ({"label_names": ["fake"]}, "2 classes, and 1 label_names"),
        ({"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5]}}, "makes no recipe"),
        ({"pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": "x"}}, "makes no recipe"),
        ({"pretrained_cfg": {"input_size": [1, 32, 32.5]}}, "makes no recipe"),
    ],
)
def test_a_config_that_makes_no_sense(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "x", "resnet", ["real", "fake"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=said):
        load_detector(folder, detector="timm_classifier")
