"""What retrieval hands out, and the argument checks its functions share."""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import Tensor

ENTROPY_EPS: Final = 1e-9
"""Added to a weight before its logarithm, as the published code does. It underflows in half precision."""


class TokenEvidence(NamedTuple):
    """Retrieval of every token, kept apart.

    Attributes:
        attended: ``(B, N, H * d)``, the heads' weighted sums of bank values, concatenated.
        max_weight: ``(B, H, N)`` in (0, 1], the largest weight of each row; 1 means one slot explains the token.
        entropy: ``(B, H, N)`` in nats, from 0 (one slot) to log k (k slots alike).
        usage: ``(K,)``, each slot's weights summed over images, heads and tokens, B x H x N in all; without gradients.
    """

    attended: Tensor
    max_weight: Tensor
    entropy: Tensor
    usage: Tensor


class PooledEvidence(NamedTuple):
    """Retrieval of an image, averaged: all that a score needs.

    Attributes:
        attended: ``(B, H * d)``, mean over tokens of the heads' weighted sums of bank values, concatenated.
        max_weight: ``(B,)``, mean over heads and tokens of each row's largest weight.
        entropy: ``(B,)`` in nats, mean over heads and tokens of each row's entropy.
    """

    attended: Tensor
    max_weight: Tensor
    entropy: Tensor


def check_shapes(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> None:
    """Raise ValueError unless queries are ``(B, H, N >= 1, d)``, keys and values ``(H, K, d)``, and ``1 <= top_k <= K``."""
    if queries.ndim != 4 or keys.ndim != 3 or queries.shape[1] != keys.shape[0] or queries.shape[3] != keys.shape[2]:
        raise ValueError(
            f"queries must be (B, H, N, d) and keys (H, K, d), got {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    if keys.shape != values.shape:
        raise ValueError(f"keys and values must have one shape, got {tuple(keys.shape)} and {tuple(values.shape)}")
    if queries.shape[2] == 0:
        raise ValueError("queries must hold at least one token")
    if not 1 <= top_k <= keys.shape[1]:
        raise ValueError(f"top_k must be between 1 and the {keys.shape[1]} slots of the bank, got {top_k}")
