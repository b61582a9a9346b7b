"""What training minimises, and at which learning rate: the losses of Phase 1 (paper, Eq. 3), and the schedules of both."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

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


class CosineByEpoch(LambdaLR):
    """The schedule of Phase 1: a half cosine from 1 to 0 over the epochs, constant within each (released code).

    Args:
        optimizer: Its learning rates are those at the start.
        steps: Of the whole training.
        steps_per_epoch: Steps of one epoch.
    """

    def __init__(self, optimizer: Optimizer, steps: int, steps_per_epoch: int) -> None:
        epochs = max(1, math.ceil(steps / steps_per_epoch))

        def factor(step: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * min(step // steps_per_epoch, epochs) / epochs))

        super().__init__(optimizer, factor)


class WarmUpThenCosine(LambdaLR):
    """The schedule of Phase 2: linear from 0, then a half cosine, step by step (released code).

    Args:
        optimizer: Its learning rates are those after the warm-up.
        steps: Of the whole training.
        steps_per_epoch: Steps of one epoch.
        warm_up_epochs: Epochs until the learning rate is what the optimizer says.
        last_lr: Where it ends, at most.

    Attributes:
        warm_up_steps: Steps until the learning rate is what the optimizer says.
    """

    def __init__(
        self, optimizer: Optimizer, steps: int, steps_per_epoch: int, warm_up_epochs: float = 1.0, last_lr: float = 1e-6
    ) -> None:
        for name, value in (("warm_up_epochs", warm_up_epochs), ("last_lr", last_lr)):
            if not 0 <= value < float("inf"):
                raise ConfigError(f"scheduler.{name} must be 0 or more, got {value}")
        epochs = steps / steps_per_epoch
        self.warm_up_steps = warm_up_epochs * steps_per_epoch

        def factor(step: int, last: float) -> float:
            epoch = step / steps_per_epoch
            if epoch < warm_up_epochs:
                return epoch / warm_up_epochs
            if epochs <= warm_up_epochs:  # nothing is left for the cosine
                return 1.0
            done = min((epoch - warm_up_epochs) / (epochs - warm_up_epochs), 1.0)
            return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))

        lasts = [min(last_lr / group["lr"], 1.0) if group["lr"] else 1.0 for group in optimizer.param_groups]
        super().__init__(optimizer, [partial(factor, last=last) for last in lasts])
