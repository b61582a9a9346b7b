"""The pooled path on a CPU, without gradients: what is kept of a head's rows is summed while they are in the cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS
from mirror_pl.retrieval.select import top_k_of_rows


def over_heads(queries: Tensor, keys: Tensor, work: Callable[[int, int, NDArray[np.floating]], None]) -> None:
    """Call ``work(image, head, logits)`` for each head of each image, several at the same time.

    Args:
        queries: ``(B, H, N, d)``, not yet scaled by ``d ** -0.5``; no gradients flow from here.
        keys: ``(H, K, d)``.
        work: Its logits ``(N, K)`` are good for that call only.

    Memory: O(N x K) per thread, whatever the batch.
    """
    batch, heads, tokens, width = queries.shape
    scaled, transposed = queries.detach() * width**-0.5, keys.detach().transpose(1, 2)
    of_thread = threading.local()

    def one_head(place: int) -> None:
        head, image = divmod(place, batch)
        if not hasattr(of_thread, "logits"):
            of_thread.logits = scaled.new_empty(tokens, keys.shape[1])
        with torch.no_grad():
            torch.mm(scaled[image, head], transposed[head], out=of_thread.logits)
            work(image, head, of_thread.logits.numpy())

    # A list raises what a thread raised.
    list(_threads(torch.get_num_threads(), os.getpid()).map(one_head, range(heads * batch)))


@lru_cache(maxsize=8)  # callers may have other numbers of threads
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Return threads in each of which torch multiplies alone; of this process, since a fork has none of its parent's.

    Were torch's own threads to multiply, they would go on looking for work, in a loop, on the cores that `work` needs; and a
    product that all share waits for the one whose core a neighbour has.
    """
    del process
    all_started, as_before = threading.Barrier(count + 1), torch.get_num_threads()
    threads = ThreadPoolExecutor(count, "retrieval", torch.set_num_threads, (1,))
    try:
        for _ in range(count):
            threads.submit(all_started.wait)
        all_started.wait()
    finally:
        all_started.abort()
        torch.set_num_threads(as_before)  # of this thread it is unchanged, but threads to come would have one
    return threads


def pool_cpu(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average each image's rows; no gradients.

    Args:
        queries: ``(B, H, N, d)``, not yet scaled by ``d ** -0.5``.
        keys: ``(H, K, d)``.
        top_k: Slots kept in each row.

    Returns:
        Sums over tokens of the weights of each slot ``(B, H, K)``, mean largest weight ``(B,)``, mean entropy ``(B,)`` in
        nats.

    Memory: O(N x K) per thread, whatever the batch.
    """
    batch, heads = queries.shape[:2]
    dtype = torch.empty(0, dtype=queries.dtype).numpy().dtype
    column_sums = np.empty((batch, heads, keys.shape[1]), dtype)
    means = np.empty((batch, heads, 2))

    def one_head(image: int, head: int, logits: NDArray[np.floating]) -> None:
        column_sums[image, head], *means[image, head] = _pool_rows(logits, top_k)

    over_heads(queries, keys, one_head)
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
