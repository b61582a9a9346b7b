"""Phase 2's loss against a float64 statement, its gradients by finite differences, and exactly what it trains."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from mirror_pl.detectors import BackboneConfig, DetectorConfig, HeadConfig, LoraConfig, MemoryBankConfig, MirrorDetector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.config import HeadInput
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import ConfigError
from mirror_pl.experiment.batch import Batch
from mirror_pl.experiment.detector_training_module import DetectorTraining, DetectorTrainingModule
from mirror_pl.images import PreprocessSpec

BACKBONE = BackboneConfig("dinov3", width=16, depth=2, heads=2, mlp_width=32, gated_mlp=True, registers=2)


def detector(inputs: tuple[HeadInput, ...] = ("perplexity", "residual", "cls"), lora: bool = True) -> MirrorDetector:
    head = HeadConfig(inputs, perplexity_width=4, residual_hidden=8, residual_width=6, hidden=8, dropout=0.0)
    bank = MemoryBankConfig(slots=20, heads=2, top_k=4) if head.needs_bank else None
    spec = PreprocessSpec(crop_px=32)
    config = DetectorConfig(BACKBONE, LoraConfig(2, 4.0) if lora else None, bank, head, preprocess=spec)
    torch.manual_seed(0)
    return untrained_detector(config, Backbone(BACKBONE).requires_grad_(False), seed=1)


def batch(size: int = 4) -> Batch:
    pixels = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Batch(torch.arange(size), pixels, torch.arange(size) % 2, torch.zeros(size, dtype=torch.int64), [])


def module(model: MirrorDetector, **settings: object) -> DetectorTrainingModule:
    return DetectorTrainingModule(model, DetectorTraining(**settings), steps_an_epoch=10, batch_size=64)  # type: ignore[arg-type]


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over images of -sum_c t_c log p_c, t the label with `smoothing` spread over both classes; float64."""
    target = torch.full((len(labels), 2), smoothing / 2, dtype=torch.float64)
    target[torch.arange(len(labels)), labels] += 1 - smoothing
    log_p = logits.double() - logits.double().exp().sum(dim=1, keepdim=True).log()
    return -(target * log_p).sum(dim=1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss(smoothing: float) -> None:
    model, images = detector(), batch()
    loss, logged = module(model, label_smoothing=smoothing).loss_of(images)
    logits = model.judge(images.pixels / 255).class_logits.detach()
    assert float(loss.detach()) == pytest.approx(float(smoothed_cross_entropy(logits, images.labels, smoothing)), abs=1e-6)
    assert float(logged["accuracy"]) == float((logits.argmax(dim=1) == images.labels).float().mean())
    if not smoothing:  # the paper's: binary cross-entropy of the verdict's logit
        verdict = model(images.pixels).logit.detach().double()
        p = 1 / (1 + (-verdict).exp())
        expected = -torch.where(images.labels == 1, p.log(), (1 - p).log()).mean()
        assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("retrieval_gradient", [True, False])
def test_gradients_by_finite_differences(retrieval_gradient: bool) -> None:
    """Of every trained tensor, along a random direction, in float64; through the retrieval, or around it."""
    model = detector().double()
    trainer = module(model, retrieval_gradient=retrieval_gradient)
    images = batch()
    for name, parameter in trainer.trained_parameters().items():
        if name.endswith("lora_b"):  # at zero A has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    constants = model.judge(images.pixels.double() / 255).evidence
    assert constants is not None
    tokens_mean = model.features(images.pixels.double() / 255).tokens.mean(dim=1).detach()
    rebuilt = tokens_mean - constants.mean_residual.detach()

    def loss() -> Tensor:
        if retrieval_gradient:
            logits = model.judge(images.pixels.double() / 255).class_logits
        else:  # what the bank made stays as it was; the tokens move
            features = model.features(images.pixels.double() / 255)
            perplexity = torch.stack([constants.max_weight, constants.entropy], dim=-1).detach()
            logits = model.head(perplexity, features.tokens.mean(dim=1) - rebuilt, features.cls)
        return smoothed_cross_entropy(logits, images.labels, 0.1)

    judged = model.judge(images.pixels.double() / 255, retrieval_gradient=retrieval_gradient)
    smoothed_cross_entropy(judged.class_logits, images.labels, 0.1).backward()
    for name, parameter in trainer.trained_parameters().items():
        direction = torch.randn_like(parameter)
        assert parameter.grad is not None
        analytic = float((parameter.grad * direction).sum())
        with torch.no_grad():
            step = 1e-6
            parameter += step * direction
            above = float(loss())
            parameter -= 2 * step * direction
            below = float(loss())
            parameter += step * direction
        assert (above - below) / (2 * step) == pytest.approx(analytic, rel=1e-4, abs=1e-8), name


def test_cutting_the_gradient_changes_that_of_lora_only() -> None:
    gradients = []
    for retrieval_gradient in (True, False):
        trainer = module(detector(), retrieval_gradient=retrieval_gradient)
        with torch.no_grad():  # slots of unit length say little: their logits are all but alike
            trainer.detector.memory_bank.memory *= 30
        trainer.loss_of(batch())[0].backward()
        gradients.append({name: p.grad for name, p in trainer.trained_parameters().items()})
    full, cut = gradients
    for name in full:
        different = (full[name] - cut[name]).norm() / full[name].norm().clamp_min(1e-12)
        if name.startswith("head.") or name.endswith("lora_a"):  # B is 0, so A has no gradient
            assert different < 1e-3, name  # retrieval without gradients is computed in another order
        elif ".v." in name:  # of q and k it moves next to nothing: a softmax does not see what all its logits share
            assert different > 1e-2, name


@pytest.mark.parametrize(
    ("inputs", "head"),
    [
        (("perplexity", "residual", "cls"), r"perplexity_branch\.0|residual_branch\.[03]|classifier\.[03]"),
        (("perplexity", "residual"), r"perplexity_branch\.0|residual_branch\.[03]|classifier\.[03]"),
        (("perplexity", "cls"), r"perplexity_branch\.0|classifier\.[03]"),
        (("residual", "cls"), r"residual_branch\.[03]|classifier\.[03]"),
        (("cls",), r"classifier\.[03]"),
    ],
)
@pytest.mark.parametrize("lora", [True, False])
def test_exactly_these_are_trained(inputs: tuple[HeadInput, ...], head: str, lora: bool) -> None:
    trainer = module(detector(inputs, lora))
    names = set(trainer.trained_parameters())
    adapters = (
        {f"backbone.layers.{n}.attention.{p}.lora_{x}" for n in range(2) for p in "qkv" for x in "ab"} if lora else set()
    )
    branches = {name for name in names if name.startswith("head.")}
    assert names == adapters | branches
    assert all(re.fullmatch(rf"head\.({head})\.(weight|bias)", name) for name in branches)
    assert len(branches) == 2 * sum({"perplexity": 1, "residual": 2, "cls": 0}[name] for name in inputs) + 4
    trainable = [parameter for parameter in trainer.detector.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in trainer.trained_parameters().values()}
    trainer.loss_of(batch())[0].backward()
    assert all(p.grad is not None for p in trainable)


def test_only_matrices_decay() -> None:
    trainer = module(detector(), weight_decay=0.02)
    groups = trainer.configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.02, 0.0]
    assert all(parameter.ndim == 2 for parameter in groups[0]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(trainer.trained_parameters())


def test_the_learning_rate_follows_the_batch() -> None:
    trainer = module(detector(), epochs=3, learning_rate=4e-4)
    rates = []
    for trainer.step in range(31):
        rates.append(trainer.learning_rate())
    assert rates[0] == 0
    assert max(rates) == rates[10] == pytest.approx(4e-4 * 64 / 256)
    assert rates[30] == pytest.approx(1e-6), "whatever the batch"


def test_fresh_lora_leaves_the_verdict_as_it_is() -> None:
    pixels = batch().pixels
    plain, adapted = detector(lora=False).eval(), detector().eval()
    assert torch.equal(plain(pixels).logit, adapted(pixels).logit)


def test_train_mode_gives_the_same_features_twice() -> None:
    trainer = module(detector()).train()
    assert trainer.detector.backbone.training
    assert not trainer.detector.memory_bank.training
    pixels = batch().pixels / 255
    first, second = (trainer.detector.features(pixels).tokens for _ in range(2))
    assert torch.equal(first, second)
    trainer.eval()
    assert torch.equal(trainer.detector.features(pixels).tokens, first)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, r"phase\.epochs must be at least 1"),
        ({"learning_rate": 0.0}, r"phase\.learning_rate must be more than 0"),
        ({"weight_decay": -1.0}, r"phase\.weight_decay must be 0 or more"),
        ({"last_learning_rate": -1.0}, r"phase\.last_learning_rate must be 0 or more"),
        ({"label_smoothing": -0.1}, r"phase\.label_smoothing must be at least 0"),
    ],
)
def test_settings_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorTraining(**values)  # type: ignore[arg-type]
