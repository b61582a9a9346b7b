"""The backbone in 8 bits: the same decisions, bank and head as they were, and refused where it cannot be or does not hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flat_detector import FlatDetector

from mirror_pl import DetectorModule
from mirror_pl.detectors import Detector, MirrorDetector, load_detector
from mirror_pl.detectors import quantise as quantising
from mirror_pl.detectors.quantise import PICTURES, quantise
from mirror_pl.errors import ConfigError

torchao = pytest.importorskip("torchao")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)]
)
def test_int8_decides_the_same(precision: str, dtype: torch.dtype) -> None:
    detector = load_detector("miniature", dtype=dtype)
    around = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("backbone.")}
    found = quantise(detector, "int8", precision=precision)
    assert detector.quantised is found
    assert (found.kind, found.layers, found.pictures, found.flipped) == ("int8", 28, PICTURES, 0)
    assert (
        0 < found.mean < found.largest < 0.5
    )  # logits here lie between -11 and 7; a weight moves by up to 1/254 of its row
    assert "28 linear layers; of 32 pictures |logit difference| is 0." in str(found)
    after = detector.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in around.items())
    eight_bits = [name for name, tensor in after.items() if isinstance(tensor, torchao.utils.TorchAOBaseTensor)]
    assert len(eight_bits) == 28
    assert all(".layer." in name or ".layers." in name for name in eight_bits)
    logits = detector(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).logit
    moved = detector.to(dtype).cpu()  # as Lightning does
    assert torch.equal(moved(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).logit, logits)


def test_the_pictures_are_spread_and_half_of_them_real() -> None:
    pictures = quantising._pictures(load_detector("miniature"))
    kinds = [path.parent.name for path in pictures]
    assert len(set(pictures)) == PICTURES
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "reals": 16, "nearest": 4, "shuffle": 4, "transposed": 4, "variational": 4,
    }  # fmt: skip


def test_scores_that_do_not_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load_detector("miniature")
    score: Callable[..., object] = torchao.quantization.quantize_

    def and_damage(backbone: torch.nn.Module, config: object, filter_fn: object) -> None:
        score(backbone, config, filter_fn=filter_fn)
        next(backbone.parameters()).fill_(3.0)  # the CLS token

    monkeypatch.setattr(torchao.quantization, "quantize_", and_damage)
    with pytest.raises(ConfigError, match=r"of 32 pictures .* decisions flipped; accepted is 1, .* leave quantise out"):
        quantise(detector, "int8")
    assert detector.quantised is None


def training(detector: Detector) -> Detector:
    return detector.train()


def quantised(detector: Detector) -> Detector:
    quantise(detector, "int8")
    return detector


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: load_detector("miniature"),
            "fp8",
            "CUDA device of compute capability 8.9 or higher, got cpu; use quantise=int8",
        ),
        (lambda: load_detector("miniature").to("meta"), "int8", "expected a CPU or CUDA device, got meta"),
        (lambda: load_detector("miniature"), "int4", "must be fp8 or int8, got 'int4'"),
        (lambda: training(load_detector("miniature")), "int8", "in training"),
        (lambda: load_detector("miniature").requires_grad_(True), "int8", "in training"),
        (lambda: quantised(load_detector("miniature")), "int8", "quantised already"),
        (FlatDetector, "int8", "FlatDetector has no transformer"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Detector], kind: quantising.Kind, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantise(make(), kind)


def test_lora_apart_is_refused(tmp_path: Path) -> None:
    from golden_set import SMALL

    with pytest.raises(ConfigError, match="LoRA is kept apart; load it merged"):
        quantise(load_detector(SMALL.checkpoint, merge=False), "int8")


def test_a_quantised_detector_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    detector = load_detector("miniature")
    assert isinstance(detector, MirrorDetector)
    quantise(detector, "int8")
    with pytest.raises(ConfigError, match="quantised detector cannot be trained"):
        DetectorModule(detector).setup("fit")
    with pytest.raises(ConfigError, match="the detector is quantised; load it anew"):
        detector.save_pretrained(tmp_path / "x")


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=r"torchao is not installed: pip install 'mirror_pl\[quantise\]'"):
        quantise(load_detector("miniature"), "int8")
