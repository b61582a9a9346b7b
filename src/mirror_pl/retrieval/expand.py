"""The full path: one reconstruction a token, for Phase 1 and for maps. Differentiable; one image and head at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS, TokenEvidence, check_shapes


def sparse_softmax(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Softmax over the `top_k` largest entries of each row.

    Args:
        logits: ``(..., K)`` float.
        top_k: Entries kept in each row.

    Returns:
        Weights ``(..., top_k)``, largest first, and their columns ``(..., top_k)`` int64. Among equal logits any valid
        choice may be returned.
    """
    best, columns = logits.topk(top_k, dim=-1)
    return best.softmax(dim=-1), columns


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats over the last axis, ``-sum w log(w + 1e-9)`` (paper Eq. 4, constant of the published code)."""
    return -(weights * (weights + ENTROPY_EPS).log()).sum(dim=-1)


def expand(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> TokenEvidence:
    """Attend to the `top_k` best slots of each token and keep every token's result.

    Args:
        queries: ``(B, H, N, d)``, float32 or float64.
        keys: ``(H, K, d)``, same dtype and device.
        values: ``(H, K, d)``, same dtype and device.
        top_k: Slots kept in each row, ``1 <= top_k <= K``.

    Raises:
        ValueError: If the shapes do not fit together.

    Memory: O(N x K) besides the result, whatever the batch; with gradients, what autograd keeps of each chunk.
    """
    check_shapes(queries, keys, values, top_k)
    batch, heads, _, width = queries.shape
    scaled = queries * width**-0.5
    attended, max_weight, row_entropy = [], [], []
    for image in range(batch):
        for head in range(heads):
            logits = scaled[image, head] @ keys[head].T
            weights, columns = sparse_softmax(logits, top_k)
            attended.append(torch.zeros_like(logits).scatter(1, columns, weights) @ values[head])
            max_weight.append(weights[:, 0])
            row_entropy.append(entropy(weights))

    def stack(rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).unflatten(0, (batch, heads))

    if batch == 0:
        empty = queries.new_zeros(0, heads, queries.shape[2])
        return TokenEvidence(queries.transpose(1, 2).flatten(2), empty, empty)
    return TokenEvidence(stack(attended).transpose(1, 2).flatten(2), stack(max_weight), stack(row_entropy))
