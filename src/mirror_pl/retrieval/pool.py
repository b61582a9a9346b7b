"""The pooled path: only what a score needs, without one reconstruction a token.

Only the *mean* over tokens of the attended values enters the score, and that mean is linear in the weights: per image and
head it is (sum over tokens of the weights) x values. So no ``(N, K) x (K, d)`` product is made, and one image's
``(H, N, K)`` logits are the largest tensor held.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS, PooledEvidence, check_shapes
from mirror_pl.retrieval.expand import entropy, sparse_softmax
from mirror_pl.retrieval.pool_cpu import pool_cpu

CHUNK_LOGITS = 2**25
"""Logits of one head held at a time on an accelerator (128 MiB in float32): 40 images of the published size."""


def pool(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> PooledEvidence:
    """Attend to the `top_k` best slots of each row and average over tokens (and, for the evidence, heads).

    Equal to the means of `expand` to float tolerance. On a CPU without gradients `pool_cpu` serves, elsewhere torch in chunks.

    Args:
        queries: ``(B, H, N, d)``, float32 or float64.
        keys: ``(H, K, d)``, same dtype and device.
        values: ``(H, K, d)``, same dtype and device.
        top_k: Slots kept in each row, ``1 <= top_k <= K``.

    Raises:
        ValueError: If the shapes do not fit together.

    Memory: O(H x N x K) on a CPU, O(`CHUNK_LOGITS`) elsewhere, besides the result, whatever the batch.
    """
    check_shapes(queries, keys, values, top_k)
    if len(queries) == 0:
        empty = queries.new_zeros(0)
        return PooledEvidence(queries.new_zeros(0, queries.shape[1] * queries.shape[3]), empty, empty)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (queries, keys, values))
    if queries.device.type == "cpu" and not wants_grad:
        column_sums, max_weight, row_entropy = pool_cpu(queries, keys, top_k)
    else:
        column_sums, max_weight, row_entropy = _pool_torch(queries, keys, top_k)
    attended = torch.einsum("bhk,hkd->bhd", column_sums / queries.shape[2], values)
    return PooledEvidence(attended.flatten(1), max_weight, row_entropy)


def _pool_torch(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return column sums ``(B, H, K)``, mean largest weight ``(B,)`` and mean entropy ``(B,)``; differentiable."""
    tokens, width, slots = queries.shape[2], queries.shape[3], keys.shape[1]
    images = max(1, CHUNK_LOGITS // (tokens * slots))
    sums, max_weight, row_entropy = [], [], []
    for chunk in queries.split(images):
        by_head = []
        for of_head, head_keys in zip((chunk * width**-0.5).unbind(dim=1), keys, strict=True):
            logits = of_head.flatten(0, 1) @ head_keys.T
            weights, columns = sparse_softmax(logits, top_k)
            # Scattered and summed rather than added at an index: the order of additions, and so the result, is fixed.
            by_image = torch.zeros_like(logits).scatter_(1, columns, weights).unflatten(0, (-1, tokens))
            means = (part.view(-1, tokens).mean(dim=1) for part in (weights[:, 0], entropy(weights)))
            by_head.append((by_image.sum(dim=1), *means))
        chunk_sums, chunk_max, chunk_entropy = (torch.stack(part, dim=1) for part in zip(*by_head, strict=True))
        sums.append(chunk_sums)
        max_weight.append(chunk_max.mean(dim=1))
        row_entropy.append(chunk_entropy.mean(dim=1))
    return torch.cat(sums), torch.cat(max_weight), torch.cat(row_entropy)
