"""Retrieval for a score, without one reconstruction per token (`pool`), and with them, for Phase 1 and maps (`expand`).

Only the *mean* over tokens of the attended values enters the score, and that mean is linear in the weights: per image and
head it is (sum over tokens of the weights) x values. So no ``(N, K) x (K, d)`` product is made; on a CPU one head's
``(N, K)`` logits of an image per thread are the largest tensors held.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirror_pl.retrieval.chunked import blocks, join, pool_chunked
from mirror_pl.retrieval.cpu import pool_cpu
from mirror_pl.retrieval.cpu_gradients import expand_cpu, pool_sparse
from mirror_pl.retrieval.evidence import PooledEvidence, TokenEvidence, check_shapes
from mirror_pl.retrieval.fused import pool_fused, select_fused, serves


def pool(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> PooledEvidence:
    """Attend to the `top_k` best slots of each row and average over tokens (and, for the evidence, heads).

    Equal to the means of `expand` to float tolerance. A CPU has a way of its own without gradients (`pool_cpu`) and one with
    them (`cpu_gradients`), CUDA with Triton one without (`fused`); else torch works in chunks (`chunked`).

    Args:
        queries: ``(B, H, N, d)``, float32 or float64.
        keys: ``(H, K, d)``, same dtype and device.
        values: ``(H, K, d)``, same dtype and device.
        top_k: Slots kept in each row, ``1 <= top_k <= K``.

    Raises:
        ValueError: If the shapes do not fit together.

    Memory: O(N x K) per thread on a CPU, O(`chunked.CHUNK_LOGITS`) elsewhere, besides the result, whatever the batch.
    """
    check_shapes(queries, keys, values, top_k)
    if len(queries) == 0:
        empty = queries.new_zeros(0)
        return PooledEvidence(queries.new_zeros(0, queries.shape[1] * queries.shape[3]), empty, empty)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (queries, keys, values))
    if queries.device.type == "cpu":
        way = pool_sparse if wants_grad else pool_cpu
    else:
        way = pool_fused if serves(queries, top_k) and not wants_grad else pool_chunked
    column_sums, max_weight, row_entropy = way(queries, keys, top_k)
    attended = torch.einsum("bhk,hkd->bhd", column_sums / queries.shape[2], values)
    return PooledEvidence(attended.flatten(1), max_weight, row_entropy)


def expand(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> TokenEvidence:
    """Attend to the `top_k` best slots of each token and keep every token's result.

    Args:
        queries: As of `pool`, like the next three.
        keys: Likewise.
        values: Likewise.
        top_k: Likewise.

    Raises:
        ValueError: If the shapes do not fit together.

    Memory: O(N x K) per thread on a CPU, and what is kept of each row; O(`chunked.CHUNK_LOGITS`) elsewhere, and with
    gradients what autograd keeps of each block.
    """
    check_shapes(queries, keys, values, top_k)
    batch, heads, tokens, _ = queries.shape
    if batch == 0:
        empty = queries.new_zeros(0, heads, tokens)
        return TokenEvidence(queries.transpose(1, 2).flatten(2), empty, empty, queries.new_zeros(keys.shape[1]))
    if queries.device.type == "cpu":
        return expand_cpu(queries, keys, values, top_k)
    columns = select_fused(queries, keys, top_k) if serves(queries, top_k) else None
    usage = queries.new_zeros(keys.shape[1])
    values_of_head = values.unbind(0)  # whose gradient is put together once, not once a block
    found = []
    for block in blocks(queries, keys, top_k, columns):
        found.append((block.weights @ values_of_head[block.head], block.max_weight, block.entropy))
        usage += block.weights.detach().sum(dim=(0, 1))
    attended, max_weight, entropy = (join(list(part), heads) for part in zip(*found, strict=True))
    return TokenEvidence(attended.transpose(1, 2).flatten(2), max_weight, entropy, usage)
