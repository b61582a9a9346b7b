"""The full path: one reconstruction a token, for Phase 1 and for maps. Differentiable."""

from __future__ import annotations

from torch import Tensor

from mirror_pl.retrieval.chunked import blocks, join
from mirror_pl.retrieval.evidence import TokenEvidence, check_shapes
from mirror_pl.retrieval.fused import select_fused, serves
from mirror_pl.retrieval.sparse_cpu import expand_cpu


def expand(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> TokenEvidence:
    """Attend to the `top_k` best slots of each token and keep every token's result.

    Args:
        queries: ``(B, H, N, d)``, float32 or float64.
        keys: ``(H, K, d)``, same dtype and device.
        values: ``(H, K, d)``, same dtype and device.
        top_k: Slots kept in each row, ``1 <= top_k <= K``.

    Raises:
        ValueError: If the shapes do not fit together.

    Memory: O(H x N x K) on a CPU, and what is kept of each row; O(`chunked.CHUNK_LOGITS`) elsewhere, and with gradients what
    autograd keeps of each block.
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
