"""Phase 1's loss against its formula in float64, with the (K, K) matrix that the fast form does without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mirror_pl.errors import ConfigError
from mirror_pl.modules.objectives import orthogonality_floor, orthogonality_loss, reconstruction_loss


def plain_orthogonality(memory: Tensor, form: str) -> Tensor:
    memory = memory.double()
    if form == "released":
        memory = memory / memory.norm(dim=1, keepdim=True)
    return ((memory @ memory.T - torch.eye(len(memory), dtype=torch.float64)) ** 2).sum().sqrt()


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize(("slots", "width"), [(40, 12), (12, 40), (12, 12), (300, 32)])
def test_orthogonality(slots: int, width: int, form: str) -> None:
    memory = torch.randn(slots, width)
    torch.testing.assert_close(
        orthogonality_loss(memory, form).double(), plain_orthogonality(memory, form), rtol=1e-5, atol=0
    )  # type: ignore[arg-type]
    exact = memory.double().requires_grad_()
    value = orthogonality_loss(exact, form)  # type: ignore[arg-type]
    expected = plain_orthogonality(exact, form)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    got, want = (torch.autograd.grad(v, exact)[0] for v in (value, expected))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_gradients_by_finite_differences(form: str) -> None:
    memory = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: orthogonality_loss(m, form), (memory,))  # type: ignore[arg-type]
    tokens, rebuilt = (
        torch.randn(2, 4, 3, dtype=torch.float64),
        torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda r: reconstruction_loss(tokens, r, form), (rebuilt,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slots", "width", "floor"), [(4096, 1280, 94.9), (4096, 1024, 110.9), (4096, 768, 133.2), (8, 32, 0.0)]
)
def test_orthogonal_initialisation_starts_at_the_floor(slots: int, width: int, floor: float) -> None:
    assert orthogonality_floor(slots, width) == pytest.approx(floor, abs=0.05)
    if slots < 100:
        memory = torch.nn.init.orthogonal_(torch.empty(slots, width))
        assert orthogonality_loss(memory) < 1e-5
        assert torch.autograd.grad(orthogonality_loss(memory.requires_grad_()), memory)[0].isfinite().all()
    else:
        small = torch.nn.init.orthogonal_(torch.empty(slots // 16, width // 16))
        assert float(orthogonality_loss(small)) >= orthogonality_floor(slots // 16, width // 16) * (1 - 1e-5)


def test_reconstruction() -> None:
    tokens, rebuilt = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(reconstruction_loss(tokens, rebuilt), ((tokens - rebuilt) ** 2).mean())
    torch.testing.assert_close(reconstruction_loss(tokens, rebuilt, "paper"), ((tokens - rebuilt) ** 2).sum(-1).mean())


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss_form must be one of released, paper, got 'both'"):
        orthogonality_loss(torch.randn(3, 2), "both")  # type: ignore[arg-type]


def test_the_papers_floor() -> None:
    """Orthonormal columns: as near to the identity as a product of rank D can be."""
    memory = torch.nn.init.orthogonal_(torch.empty(40, 12))
    torch.testing.assert_close(
        float(orthogonality_loss(memory, "paper")), orthogonality_floor(40, 12, "paper"), rtol=1e-5, atol=0
    )
    assert all(float(orthogonality_loss(torch.randn(40, 12), "paper")) > 28**0.5 for _ in range(5))
