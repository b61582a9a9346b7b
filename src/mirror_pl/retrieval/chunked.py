"""Retrieval in torch operations, one head and some images at a time: differentiable, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from mirror_pl.retrieval.evidence import ENTROPY_EPS
from mirror_pl.retrieval.select import top_k_of_rows

CHUNK_LOGITS = 2**25
"""Logits held at a time on an accelerator (128 MiB in float32): 40 images of the published size. A CPU takes one image."""


LOGITS_A_THREAD = 2**18
"""Logits for which a further thread is worth its start."""


class Block(NamedTuple):
    """What one head makes of the tokens of some images.

    Attributes:
        images: Which images, a slice of the batch.
        head: Which head.
        weights: ``(I, N, K)``, zero for slots that are not kept.
        max_weight: ``(I, N)``.
        entropy: ``(I, N)`` in nats, ``-sum w log(w + 1e-9)`` (paper Eq. 4, constant of the published code).
    """

    images: slice
    head: int
    weights: Tensor
    max_weight: Tensor
    entropy: Tensor


def blocks(queries: Tensor, keys: Tensor, top_k: int, columns: Tensor | None = None) -> Iterator[Block]:
    """Go through a batch: all heads of some images, then of the next ones.

    Args:
        queries: ``(B, H, N, d)``, not yet scaled by ``d ** -0.5``.
        keys: ``(H, K, d)``.
        top_k: Slots kept in each row.
        columns: ``(B, H, N, top_k)`` int64, the slots to keep, where they are known already.

    Gradients flow through the weights to queries and keys, not through the choice of slots, as with ``torch.topk``.
    """
    batch, heads, tokens, width = queries.shape
    slots = keys.shape[1]
    together = 1 if queries.device.type == "cpu" else max(1, CHUNK_LOGITS // (tokens * slots))
    queries_of_head, keys_of_head = queries.unbind(1), keys.unbind(0)  # whose gradients are put together once
    for first in range(0, batch, together):
        images = slice(first, min(first + together, batch))
        for head in range(heads):
            logits = (queries_of_head[head][images] * width**-0.5).flatten(0, 1) @ keys_of_head[head].T
            kept = _best_columns(logits.detach(), top_k) if columns is None else columns[images, head].flatten(0, 1)
            weights = logits.gather(1, kept).softmax(dim=1)
            entropy = -(weights * (weights + ENTROPY_EPS).log()).sum(dim=1)
            # Scattered and summed rather than added at an index: the order of additions, and so the result, is fixed.
            dense = torch.zeros_like(logits).scatter(1, kept, weights)
            yield Block(images, head, *(part.unflatten(0, (-1, tokens)) for part in (dense, weights.amax(dim=1), entropy)))


def _best_columns(logits: Tensor, top_k: int) -> Tensor:
    """Return the columns of each row's `top_k` largest entries, ``(R, top_k)`` int64."""
    if logits.device.type != "cpu":
        return logits.topk(top_k, dim=1, sorted=False).indices
    workers = min(torch.get_num_threads(), 1 + logits.numel() // LOGITS_A_THREAD)
    shares = [share.numpy() for share in logits.tensor_split(workers) if len(share)]
    with ThreadPoolExecutor(workers) as threads:
        found = threads.map(lambda share: torch.from_numpy(top_k_of_rows(share, top_k)[1]), shares)
        return torch.cat(list(found))


def join(parts: list[Tensor], heads: int) -> Tensor:
    """Put one tensor ``(I, ...)`` a block together to ``(B, H, ...)``."""
    return torch.cat([torch.stack(parts[start : start + heads], dim=1) for start in range(0, len(parts), heads)])


def pool_chunked(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average each image's rows; arguments as for `blocks`.

    Returns:
        Sums over tokens of the weights of each slot ``(B, H, K)``, mean largest weight ``(B,)``, mean entropy ``(B,)`` in
        nats.
    """
    averaged = [
        (block.weights.sum(dim=1), block.max_weight.mean(dim=1), block.entropy.mean(dim=1))
        for block in blocks(queries, keys, top_k)
    ]
    sums, max_weight, entropy = (join(list(part), queries.shape[1]) for part in zip(*averaged, strict=True))
    return sums, max_weight.mean(dim=1), entropy.mean(dim=1)
