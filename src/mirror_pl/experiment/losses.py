"""What Phase 1 minimises: the error of rebuilding real features, and how far the prototypes are from orthogonal (Eq. 3)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mirror_pl.errors import ConfigError, name_list

LossForm = Literal["released", "paper"]
"""As in the released training code, or as printed in Eq. 3 of the paper."""


def reconstruction_loss(tokens: Tensor, rebuilt: Tensor, form: LossForm = "released") -> Tensor:
    """Squared error between features and their reconstructions, ``(B, N, D)`` each.

    "released" averages over all elements; "paper" takes each token's squared norm and averages over tokens, which is D times
    as much.
    """
    error = F.mse_loss(rebuilt, tokens)
    return error if check_form(form) == "released" else error * tokens.shape[-1]


def orthogonality_loss(memory: Tensor, form: LossForm = "released") -> Tensor:
    """Frobenius norm of (G - I), G the Gram matrix of the prototypes ``(K, D)``.

    "released" normalises each prototype to length 1 first, "paper" does not.

    With more prototypes than features no ``(K, K)`` matrix is made: ``|M M^T - I|^2 = |M^T M|^2 - 2 |M|^2 + K``, and
    ``M^T M`` is ``(D, D)``. The norm cannot be 0 there (see `orthogonality_floor`), so nothing cancels.
    """
    rows = F.normalize(memory, dim=1) if check_form(form) == "released" else memory
    slots, width = rows.shape
    if slots <= width:
        return torch.linalg.matrix_norm(rows @ rows.T - torch.eye(slots, dtype=rows.dtype, device=rows.device))
    squared = (rows.T @ rows).square().sum() - 2 * rows.square().sum() + slots
    return squared.clamp_min(torch.finfo(rows.dtype).tiny).sqrt()


def orthogonality_floor(slots: int, width: int, form: LossForm = "released") -> float:
    """Least value of `orthogonality_loss` for K prototypes of D features, 0 where K <= D.

    "released", of length 1: ``sqrt(K^2 / D - K)``; "paper", of any length: ``sqrt(K - D)``, the rank that is missing.
    """
    squared = slots * slots / width - slots if check_form(form) == "released" else slots - width
    return max(squared, 0.0) ** 0.5


def check_form(form: str) -> str:
    """Return `form`, or raise ConfigError if it is none."""
    if form not in get_args(LossForm):
        raise ConfigError(f"loss_form must be one of {name_list(get_args(LossForm))}, got {form!r}")
    return form
