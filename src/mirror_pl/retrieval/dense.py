"""Sparse attention written as its definition: the oracle of the tests and the yardstick of the measurements.

It holds several ``(B, H, N, K)`` tensors and belongs in no other place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS, TokenEvidence, check_shapes


def dense(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> TokenEvidence:
    """Attend to the `top_k` best slots of each row (paper Eq. 2, scaled per head as in the published code).

    Args:
        queries: ``(B, H, N, d)``; computed in their own dtype, float64 for an oracle.
        keys: ``(H, K, d)``.
        values: ``(H, K, d)``.
        top_k: Slots kept in each (image, head, token) row, ``1 <= top_k <= K``.

    Memory: O(B x H x N x K), several times over.
    """
    check_shapes(queries, keys, values, top_k)
    batch, heads, tokens, width = queries.shape
    logits = torch.einsum("bhnd,hkd->bhnk", queries, keys) * width**-0.5
    best, columns = logits.topk(top_k, dim=-1)
    kept = torch.full_like(logits, float("-inf")).scatter(-1, columns, best)
    weights = kept.softmax(dim=-1)
    attended = torch.einsum("bhnk,hkd->bhnd", weights, values)
    return TokenEvidence(
        attended=attended.transpose(1, 2).reshape(batch, tokens, heads * width),
        max_weight=weights.amax(dim=-1),
        entropy=-(weights * (weights + ENTROPY_EPS).log()).sum(dim=-1),
        usage=weights.detach().sum(dim=(0, 1, 2)),
    )
