"""Logits on a CPU: those of one image at a time, in one buffer, its heads shared out over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def over_heads(queries: Tensor, keys: Tensor, work: Callable[[int, int, NDArray[np.floating]], None]) -> None:
    """Call ``work(image, head, logits)`` for each head of each image; for several heads of an image at the same time.

    Args:
        queries: ``(B, H, N, d)``, not yet scaled by ``d ** -0.5``; no gradients flow from here.
        keys: ``(H, K, d)``.
        work: Its logits ``(N, K)`` are good for that call only.

    Memory: O(H x N x K), whatever the batch.
    """
    batch, heads, tokens, width = queries.shape
    transposed = keys.transpose(1, 2)
    logits = queries.new_empty(heads, tokens, keys.shape[1])
    by_head = logits.numpy()
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for image in range(batch):
            torch.bmm(queries[image] * width**-0.5, transposed, out=logits)
            # A list raises what a thread raised.
            list(threads.map(lambda head, image=image: work(image, head, by_head[head]), range(heads)))
