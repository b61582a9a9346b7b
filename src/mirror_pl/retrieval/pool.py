"""The pooled path: only what a score needs, without one reconstruction a token.

Only the *mean* over tokens of the attended values enters the score, and that mean is linear in the weights: per image and
head it is (sum over tokens of the weights) x values. So no ``(N, K) x (K, d)`` product is made, and one image's
``(H, N, K)`` logits are the largest tensor held.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS, PooledEvidence, check_shapes
from mirror_pl.retrieval.expand import entropy, sparse_softmax

CHUNK_LOGITS = 2**25
"""Logits of one head held at a time on an accelerator (128 MiB in float32): 40 images of the published size."""


def pool(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> PooledEvidence:
    """Attend to the `top_k` best slots of each row and average over tokens (and, for the evidence, heads).

    Equal to the means of `expand` to float tolerance. On a CPU without gradients, numpy's SIMD partition finds the
    k-th largest logit, about four times as fast as ``torch.topk`` on such rows.

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
    scaled = queries * queries.shape[-1] ** -0.5
    if len(queries) == 0:
        empty = queries.new_zeros(0)
        return PooledEvidence(queries.new_zeros(0, queries.shape[1] * queries.shape[3]), empty, empty)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (queries, keys, values))
    if queries.device.type == "cpu" and not wants_grad:
        column_sums, max_weight, row_entropy = _pool_cpu(scaled, keys, top_k)
    else:
        column_sums, max_weight, row_entropy = _pool_torch(scaled, keys, top_k)
    attended = torch.einsum("bhk,hkd->bhd", column_sums / queries.shape[2], values)
    return PooledEvidence(attended.flatten(1), max_weight, row_entropy)


def _pool_torch(scaled: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return column sums ``(B, H, K)``, mean largest weight ``(B,)`` and mean entropy ``(B,)``; differentiable."""
    tokens, slots = scaled.shape[2], keys.shape[1]
    images = max(1, CHUNK_LOGITS // (tokens * slots))
    sums, max_weight, row_entropy = [], [], []
    for chunk in scaled.split(images):
        by_head = []
        for queries, head_keys in zip(chunk.unbind(dim=1), keys, strict=True):
            logits = queries.flatten(0, 1) @ head_keys.T
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


def _pool_cpu(scaled: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_pool_torch` without gradients: one image's logits at a time, heads shared out over threads."""
    batch, heads, _, _ = scaled.shape
    slots = keys.shape[1]
    transposed = keys.transpose(1, 2)
    column_sums = np.empty((batch, heads, slots))
    pooled = np.empty((batch, heads, 2))

    def one_head(logits: NDArray[np.floating], image: int, head: int) -> None:
        sums, pooled[image, head, 0], pooled[image, head, 1] = _pool_rows(logits, top_k)
        column_sums[image, head] = sums

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for image in range(batch):
            logits = (scaled[image] @ transposed).detach().numpy()
            list(threads.map(one_head, logits, [image] * heads, range(heads)))  # a list raises what a thread raised
    sums, means = (torch.from_numpy(array).to(scaled.dtype) for array in (column_sums, pooled.mean(axis=1)))
    return sums, means[:, 0], means[:, 1]


def _pool_rows(logits: NDArray[np.floating], top_k: int) -> tuple[NDArray[np.float64], float, float]:
    """Pool the rows of one image and head.

    Args:
        logits: ``(N, K)``.
        top_k: Entries kept in each row.

    Returns:
        Column sums of the weights ``(K,)``, mean largest weight, mean entropy in nats.
    """
    rows, slots = logits.shape
    kth_largest = np.partition(logits, slots - top_k, axis=1)[:, slots - top_k, None]
    kept = np.flatnonzero(logits >= kth_largest)
    if kept.size == rows * top_k:
        best = logits.ravel()[kept].reshape(rows, top_k)
        columns = kept.reshape(rows, top_k) - np.arange(rows)[:, None] * slots
    else:  # equal logits at the threshold, or NaN: choose exactly top_k of each row
        columns = np.argpartition(logits, slots - top_k, axis=1)[:, slots - top_k :]
        best = np.take_along_axis(logits, columns, axis=1)
    weights = np.exp(best - best.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    sums = np.bincount(columns.ravel(), weights=weights.ravel(), minlength=slots).astype(np.float64, copy=False)
    row_entropy = -(weights * np.log(weights + ENTROPY_EPS)).sum(axis=1)
    return sums, float(weights.max(axis=1).mean()), float(row_entropy.mean())
