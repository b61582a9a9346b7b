"""UnivFD: equal to the golden scores, from either layout of CLIP, all or nothing."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_set import TOLERANCE, BaselineSet, changed, logits_of, saved, says_cuda
from safetensors.torch import load_file, save_file

from mirror_pl.detectors import Detector
from mirror_pl.detectors.baseline import VitSize
from mirror_pl.detectors.registry import load_detector
from mirror_pl.detectors.univfd import VIT_L, UnivfdDetector
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.images.pictures import prepare

GOLDEN = BaselineSet("univfd")
HEAD, CLIP = GOLDEN.folder / "fc_weights.pth", GOLDEN.folder / "clip-tiny-hf"


@pytest.fixture(scope="module")
def detector() -> Iterator[UnivfdDetector]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower with more
    yield UnivfdDetector.load(HEAD, backbone_folder=CLIP)
    torch.set_num_threads(threads)


def test_golden_scores_in_batches(detector: UnivfdDetector) -> None:
    assert GOLDEN.largest_difference(logits_of(detector, GOLDEN.paths(), batch_size=16)) < TOLERANCE


def test_golden_scores_one_by_one(detector: UnivfdDetector) -> None:
    assert GOLDEN.largest_difference(torch.cat([logits_of(detector, [path]) for path in GOLDEN.paths()])) < TOLERANCE


@torch.inference_mode()
def test_pixels_and_features(detector: UnivfdDetector) -> None:
    golden = GOLDEN.intermediates()
    prepared = [prepare(path, detector.spec).pixels for path in GOLDEN.paths()]
    pixels = torch.from_numpy(np.concatenate([one for one in prepared if one is not None])).permute(0, 3, 1, 2)
    normalised = detector.normalise(pixels.float() / 255)
    np.testing.assert_allclose(normalised.mean(dim=(2, 3)), golden["input_mean"], atol=2e-6)
    np.testing.assert_allclose(normalised.std(dim=(2, 3)), golden["input_std"], atol=2e-5)
    verdict = detector(pixels)
    np.testing.assert_allclose(verdict.evidence["feature"], golden["feature"], atol=5e-6)
    assert torch.equal(verdict.p_fake, verdict.logit.sigmoid())


def test_it_meets_the_contract(detector: UnivfdDetector) -> None:
    assert isinstance(detector, Detector)
    assert not detector.training
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    with pytest.raises(ValueError, match=r"must be \(B, 3, 224, 224\), got \(1, 3, 336, 336\)"):
        detector(torch.zeros(1, 3, 336, 336))


@torch.inference_mode()
def test_mixed_precision_and_half_weights(detector: UnivfdDetector) -> None:
    """The linear layer computes in float32; what bfloat16 rounds off the rest moves logits of random weights by 0.04."""
    paths, golden = GOLDEN.paths()[:4], GOLDEN.logits()[:4]
    half = UnivfdDetector.load(HEAD, backbone_folder=CLIP, dtype=torch.bfloat16)
    assert half.head.weight.dtype == half.normalise.mean.dtype == torch.float32
    for logits in (logits_of(detector, paths, precision="bf16-mixed"), logits_of(half, paths)):
        assert 0 < (logits - golden).abs().max() < 0.1


def test_everything_goes_to_the_device() -> None:
    """The meta device stands for one that is not the CPU."""
    detector = UnivfdDetector.load(HEAD, backbone_folder=CLIP, device="meta")
    assert {tensor.device.type for tensor in (*detector.parameters(), *detector.buffers())} == {"meta"}


def test_the_published_size() -> None:
    with torch.device("meta"):
        detector = UnivfdDetector()
    assert sum(parameter.numel() for parameter in detector.parameters()) == 303_966_208 + 769


def test_a_file_saved_on_a_gpu_and_the_licence(caplog: pytest.LogCaptureFixture) -> None:
    assert says_cuda(HEAD)
    with caplog.at_level(logging.INFO, "mirror_pl"):
        UnivfdDetector.load(HEAD, backbone_folder=CLIP)
    assert [record.getMessage() for record in caplog.records] == [
        "UnivFD: code and fc_weights.pth MIT; OpenAI's CLIP, code and weights, MIT"
    ]


def whole_clip(folder: Path) -> Path:
    """A folder as the Hub has it: with the text half, and the constants that older files carry."""
    folder.mkdir()
    values = json.loads((CLIP / "config.json").read_text())
    vision = {**values, "projection_dim": 512}  # the one beside it counts
    whole = {"model_type": "clip", "projection_dim": values["projection_dim"], "text_config": {}, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(whole))
    text = {name: torch.zeros(2) for name in ("text_model.final_layer_norm.bias", "text_projection.weight", "logit_scale")}
    positions = {"vision_model.embeddings.position_ids": torch.arange(257)[None]}
    save_file({**load_file(CLIP / "model.safetensors"), **text, **positions}, folder / "model.safetensors")
    return folder


def test_a_folder_of_the_whole_clip(tmp_path: Path, detector: UnivfdDetector) -> None:
    loaded = UnivfdDetector.load(HEAD, backbone_folder=whole_clip(tmp_path / "clip"))
    for (name, tensor), (other, expected) in zip(loaded.state_dict().items(), detector.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(tensor, expected), name


def openai_layout() -> dict[str, torch.Tensor]:
    """The golden CLIP under the names of OpenAI's code, whose q, k and v are one, and whose projection is transposed."""
    found: dict[str, torch.Tensor] = {"logit_scale": torch.ones(()), "context_length": torch.tensor(77)}
    tensors = load_file(CLIP / "model.safetensors")
    for kind in ("weight", "bias"):
        for layer in range(2):
            parts = [f"vision_model.encoder.layers.{layer}.self_attn.{letter}_proj.{kind}" for letter in "qkv"]
            stacked = torch.cat([tensors.pop(part) for part in parts])
            found[f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"] = stacked
    for name, tensor in tensors.items():
        for old, new in (
            ("vision_model.encoder.layers.", "visual.transformer.resblocks."), ("self_attn", "attn"),
            ("layer_norm", "ln_"), ("fc1", "c_fc"), ("fc2", "c_proj"), ("visual_projection.weight", "visual.proj"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"), ("vision_model.post_layernorm", "visual.ln_post"),
            ("vision_model.embeddings.patch_embedding", "visual.conv1"),
            ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
            ("vision_model.embeddings.", "visual."),
        ):  # fmt: skip
            name = name.replace(old, new)
        found[name] = tensor.t() if name == "visual.proj" else tensor
    return found


def test_openais_layout(tmp_path: Path, detector: UnivfdDetector) -> None:
    path = saved(tmp_path / "clip.pth", openai_layout())
    loaded = UnivfdDetector.load(HEAD, backbone_folder=path, size=GOLDEN.size)
    for (name, tensor), (other, expected) in zip(loaded.state_dict().items(), detector.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(tensor, expected), name
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in openai_layout().items()}
    half = UnivfdDetector.load(HEAD, backbone_folder=saved(tmp_path / "half.pth", halves), size=GOLDEN.size)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}, "computes in float32 all the same"
    with pytest.raises(CheckpointError, match=r"does not fit CLIP \(patch 14, width 1024, 24 layers"):
        UnivfdDetector.load(HEAD, backbone_folder=path)


def test_a_torchscript_archive_is_not_run(tmp_path: Path) -> None:
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Parameter(torch.zeros(2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.proj

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; OpenAI's file is of 2021
        torch.jit.save(torch.jit.trace(Holder(), torch.zeros(1, 2)), tmp_path / "ViT-L-14.pt")
    with pytest.raises(
        CheckpointError, match=r"TorchScript archive(.|\n)*openai/clip-vit-large-patch14(.|\n)*torch.jit.load"
    ):
        UnivfdDetector.load(HEAD, backbone_folder=tmp_path / "ViT-L-14.pt")


@pytest.mark.parametrize("how", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize("name", ["bias", "vision_model.encoder.layers.1.mlp.fc2.weight", "visual_projection.weight"])
def test_all_or_nothing(tmp_path: Path, how: str, name: str) -> None:
    head = torch.load(HEAD, map_location="cpu", weights_only=True)
    tensors = load_file(CLIP / "model.safetensors")
    if name in head:
        head = changed(head, how, name)
    else:
        tensors = changed(tensors, how, name)
    shutil.copytree(CLIP, tmp_path / "clip")
    save_file(tensors, tmp_path / "clip" / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 {how}: (backbone|head)\.{name}"):
        UnivfdDetector.load(saved(tmp_path / "fc.pth", head), backbone_folder=tmp_path / "clip")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; the detectors' CLIP has 'quick_gelu'"),
        ({"image_size": 336}, "image_size = 336"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"projection_dim": 64}, r"head.weight \(file \(1, 48\), detector \(1, 64\)\)"),
        ({"model_type": "dinov2"}, "describes a 'dinov2' model"),
        ({"num_attention_heads": 7}, "is no config of a CLIP"),
        ({"hidden_size": "wide"}, "is no config of a CLIP"),
    ],
)
def test_another_clip(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    shutil.copytree(CLIP, tmp_path / "clip")
    values = json.loads((CLIP / "config.json").read_text()) | change
    (tmp_path / "clip" / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=said):
        UnivfdDetector.load(HEAD, backbone_folder=tmp_path / "clip")


def test_files_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "fc.pth").write_bytes(HEAD.read_bytes()[:900])
    (tmp_path / "empty").mkdir()
    for head, clip, said in (
        (tmp_path / "fc.pth", CLIP, "no PyTorch checkpoint, or a truncated one"),
        (tmp_path / "none.pth", CLIP, "does not exist"),
        (HEAD, tmp_path / "none", "none does not exist"),
        (HEAD, tmp_path / "empty", "no config.json in .*openai/clip-vit-large-patch14"),
    ):
        with pytest.raises(CheckpointError, match=said):
            UnivfdDetector.load(head, backbone_folder=clip)


def test_the_table_of_detectors() -> None:
    by_name = load_detector(HEAD, detector="univfd", backbone_folder=CLIP)
    assert isinstance(by_name, UnivfdDetector)
    with pytest.raises(ConfigError, match=r"'univfb'. Did you mean univfd\? Known: .*dda"):
        load_detector(HEAD, detector="univfb")
    with pytest.raises(ConfigError, match=r"backbone_folder: detector=univfd wants one\. Expected fc_weights\.pth"):
        load_detector(HEAD, detector="univfd")
    with pytest.raises(ConfigError, match="backbone_folder: detector=dda has no such setting"):
        load_detector(HEAD, detector="dda", backbone_folder=CLIP)


def test_sizes() -> None:
    assert str(VIT_L) == "width 1024, 24 layers, 16 heads, MLP 4096"
    with pytest.raises(ConfigError, match="cannot have width 10, 1 layers, 3 heads"):
        VitSize(10, 1, 3, 10)
