"""Phase 2's loss against a float64 statement, its gradients by finite differences, and exactly what it trains."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mirror_pl.data.batch import Batch
from mirror_pl.detectors import BackboneConfig, DetectorConfig, HeadConfig, LoraConfig, MemoryBankConfig, MirrorDetector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.detector_config import HeadInput
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import ConfigError
from mirror_pl.images import PreprocessSpec
from mirror_pl.modules import DetectorModule

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


def module(model: MirrorDetector, **settings: Any) -> DetectorModule:
    made = DetectorModule(model, **settings)
    made.begin_training()
    return made


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


class FakeTrainer(SimpleNamespace):
    """What a module asks of its trainer when it makes its optimizer."""

    estimated_stepping_batches = 30
    num_training_batches = 10
    accumulate_grad_batches = 1
    datamodule = SimpleNamespace(batch_size=64)


def test_only_matrices_decay() -> None:
    trainer = module(detector(), optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.02))
    trainer._trainer = FakeTrainer()
    made: Any = trainer.configure_optimizers()
    groups = made["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.02, 0.0]
    assert all(parameter.ndim == 2 for parameter in groups[0]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(trainer.trained_parameters())


@pytest.mark.parametrize(("reference", "accumulated", "peak"), [(256, 1, 4e-4 * 64 / 256), (256, 4, 4e-4), (None, 4, 4e-4)])
def test_the_learning_rate_follows_the_batch(reference: int | None, accumulated: int, peak: float) -> None:
    optimizer = partial(torch.optim.AdamW, lr=4e-4)
    trainer = module(detector(), optimizer=optimizer, reference_batch=reference)
    trainer._trainer = FakeTrainer(accumulate_grad_batches=accumulated)
    made: Any = trainer.configure_optimizers()
    rates, schedule = [], made["lr_scheduler"]["scheduler"]
    for _ in range(31):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        schedule.step()
    assert rates[0] == 0
    assert max(rates) == pytest.approx(peak)
    assert rates[30] == pytest.approx(1e-6), "whatever the batch"


def test_one_of_torchs_own_schedules_is_not_told_how_long_it_lasts() -> None:
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    trainer = module(detector(), scheduler=schedule, reference_batch=None)
    trainer._trainer = FakeTrainer()
    made: Any = trainer.configure_optimizers()
    assert isinstance(made["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.StepLR)
    with pytest.raises(ConfigError, match=r"optimizer and scheduler: .*unexpected keyword"):
        other = module(detector(), optimizer=partial(torch.optim.AdamW, momentum=1))
        other._trainer = FakeTrainer()
        other.configure_optimizers()


def test_mixed_images_have_mixed_labels() -> None:
    """With alpha far above 1 every share is a half: each image the mean of two, and each label too."""
    images = batch(6)
    mixing = module(detector(), mixup=1e6, label_smoothing=0.0)
    torch.manual_seed(0)
    loss, _ = mixing.loss_of(images)
    torch.manual_seed(0)
    torch.distributions.Beta(1e6, 1e6).sample((6,))
    other = torch.randperm(6)
    pixels = (images.pixels + images.pixels[other].float()) / 2 / 255
    logits = mixing.detector.judge(pixels).class_logits.double()
    share = (images.labels + images.labels[other]).double() / 2
    log_p = logits.log_softmax(dim=1)
    expected = -(share * log_p[:, 1] + (1 - share) * log_p[:, 0]).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    plain = module(detector(), label_smoothing=0.0).loss_of(images)[0]
    assert abs(float(plain.detach()) - float(loss.detach())) > 1e-5


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
    "values", [{"label_smoothing": -0.1}, {"label_smoothing": 1.0}, {"mixup": -1.0}, {"reference_batch": 0}, {"seed": -1}]
)
def test_settings_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(values))} must be"):
        module(detector(), **values)
