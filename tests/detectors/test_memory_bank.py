"""The memory bank: against a plain float64 statement, and never a step behind its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from mirror_pl.detectors import MemoryBankConfig
from mirror_pl.detectors.memory_bank import MemoryBank
from mirror_pl.retrieval import dense

CONFIG = MemoryBankConfig(slots=40, heads=2, top_k=5)


def bank() -> MemoryBank:
    return MemoryBank(12, CONFIG).eval()


def plain(bank: MemoryBank, tokens: torch.Tensor) -> torch.Tensor:
    """Max weight, entropy and mean residual of each image, side by side, in float64."""
    weights = {name: tensor.double() for name, tensor in bank.state_dict().items()}
    tokens = tokens.double()

    def heads(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(-1, (CONFIG.heads, -1)).transpose(-2, -3)

    evidence = dense(
        heads(tokens @ weights["q.weight"].T),
        heads(weights["memory"] @ weights["k.weight"].T),
        heads(weights["memory"] @ weights["v.weight"].T),
        CONFIG.top_k,
    )
    rebuilt = evidence.attended @ weights["out.weight"].T + weights["out.bias"]
    means = [evidence.max_weight.mean(dim=(1, 2)), evidence.entropy.mean(dim=(1, 2))]
    return torch.cat([torch.stack(means, dim=1), (tokens - rebuilt).mean(dim=1)], dim=1)


def evidence_of(bank: MemoryBank, tokens: torch.Tensor) -> torch.Tensor:
    evidence = bank(tokens)
    return torch.cat([evidence.max_weight[:, None], evidence.entropy[:, None], evidence.mean_residual], dim=1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_equals_the_plain_statement(mode: type) -> None:
    memory_bank, tokens = bank(), torch.randn(3, 7, 12)
    with mode():
        torch.testing.assert_close(
            evidence_of(memory_bank, tokens).double(), plain(memory_bank, tokens), atol=1e-5, rtol=1e-5
        )
        rebuilt = memory_bank.reconstruct(tokens)
        residual = (tokens - rebuilt.attended).mean(dim=1)
        torch.testing.assert_close(residual.double(), plain(memory_bank, tokens)[:, 2:], atol=1e-5, rtol=1e-5)


def change_in_place(memory_bank: MemoryBank) -> None:
    memory_bank.memory.add_(1)


def load_other_weights(memory_bank: MemoryBank) -> None:
    memory_bank.load_state_dict(MemoryBank(12, CONFIG).state_dict())


def assign_other_weights(memory_bank: MemoryBank) -> None:
    memory_bank.load_state_dict(MemoryBank(12, CONFIG).state_dict(), assign=True)


def replace_a_layer(memory_bank: MemoryBank) -> None:
    memory_bank.k = torch.nn.Linear(12, 12, bias=False)


def round_to_half(memory_bank: MemoryBank) -> None:
    memory_bank.half().float()


@pytest.mark.parametrize(
    "change", [change_in_place, load_other_weights, assign_other_weights, replace_a_layer, round_to_half]
)
@torch.no_grad()
def test_kept_keys_follow_the_weights(change: object) -> None:
    memory_bank, tokens = bank(), torch.randn(2, 5, 12)
    evidence_of(memory_bank, tokens)
    for _ in range(3):
        change(memory_bank)  # type: ignore[operator]
        torch.testing.assert_close(
            evidence_of(memory_bank, tokens).double(), plain(memory_bank, tokens), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_keys_are_projected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_bank, calls = bank(), []
    project = memory_bank._project
    monkeypatch.setattr(memory_bank, "_project", lambda *args: calls.append(args) or project(*args))
    for _ in range(3):
        evidence_of(memory_bank, torch.randn(2, 5, 12))
    assert len(calls) == 2, "once the keys, once the values"


@pytest.mark.parametrize("train", [True, False])
def test_gradients_reach_tokens_and_weights(train: bool) -> None:
    """In eval mode too, where it was asked without gradients before."""
    memory_bank, tokens = bank().train(train), torch.randn(2, 5, 12, requires_grad=True)
    with torch.no_grad():
        evidence_of(memory_bank, tokens)
    evidence_of(memory_bank, tokens).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in memory_bank.parameters())
    assert tokens.grad is not None

    frozen = copy.deepcopy(memory_bank).eval().requires_grad_(False)
    with torch.inference_mode():
        evidence_of(frozen, torch.randn(1, 5, 12))  # keys kept from here must serve training too
    again = tokens.detach().clone().requires_grad_()
    evidence_of(frozen, again).square().sum().backward()
    torch.testing.assert_close(again.grad, tokens.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_evidence_is_float32_whatever_the_autocast(dtype: torch.dtype) -> None:
    """Tokens far apart give weights of 0 and 1: in half precision their entropy would be NaN."""
    memory_bank, tokens = bank(), 100 * torch.randn(2, 5, 12)
    with torch.autocast("cpu", dtype=dtype):
        evidence = memory_bank(tokens)
    for value in evidence:
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    torch.testing.assert_close(evidence_of(memory_bank, tokens), evidence_of(memory_bank, tokens))
    linear = F.linear(tokens, memory_bank.q.weight)
    assert linear.dtype == torch.float32
