"""The pooled path on a CPU: one image's logits at a time in one buffer, its heads shared out over threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS
from mirror_pl.retrieval.select import top_k_of_rows


def pool_cpu(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average each image's rows; no gradients.

    Args:
        queries: ``(B, H, N, d)``, not yet scaled by ``d ** -0.5``.
        keys: ``(H, K, d)``.
        top_k: Slots kept in each row.

    Returns:
        Sums over tokens of the weights of each slot ``(B, H, K)``, mean largest weight ``(B,)``, mean entropy ``(B,)`` in
        nats.

    Memory: O(H x N x K), whatever the batch.
    """
    batch, heads, tokens, width = queries.shape
    slots = keys.shape[1]
    transposed = keys.transpose(1, 2)
    logits = queries.new_empty(heads, tokens, slots)
    by_head = logits.numpy()
    column_sums = np.empty((batch, heads, slots), by_head.dtype)
    means = np.empty((batch, heads, 2))

    def one_head(image: int, head: int) -> None:
        column_sums[image, head], *means[image, head] = _pool_rows(by_head[head], top_k)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for image in range(batch):
            torch.bmm(queries[image] * width**-0.5, transposed, out=logits)
            list(threads.map(one_head, [image] * heads, range(heads)))  # a list raises what a thread raised
    max_weight, row_entropy = torch.from_numpy(means.mean(axis=1)).to(queries.dtype).unbind(dim=1)
    return torch.from_numpy(column_sums), max_weight, row_entropy


def _pool_rows(logits: NDArray[np.floating], top_k: int) -> tuple[NDArray[np.float64], float, float]:
    """Pool the rows of one image and head.

    Args:
        logits: ``(N, K)``.
        top_k: Entries kept in each row.

    Returns:
        Column sums of the weights ``(K,)``, mean largest weight, mean entropy in nats.
    """
    best, columns = top_k_of_rows(logits, top_k)
    weights = np.exp(best - best.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    sums = np.bincount(columns.ravel(), weights=weights.ravel(), minlength=logits.shape[1])
    row_entropy = -(weights * np.log(weights + ENTROPY_EPS)).sum(axis=1)
    return np.asarray(sums, np.float64), float(weights.max(axis=1).mean()), float(row_entropy.mean())
