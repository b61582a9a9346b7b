"""Retrieval on a CPU with gradients, and of each token: only the kept slots are ever touched, forward and backward.

Of a row's K weights all but `top_k` are zero, 31 of 32 at the published size. A product of such rows with the bank's values,
or with its keys, is a weighted sum of a few rows of a table: what ``embedding_bag`` computes. So no ``(N, K)`` matrix of
weights or of their gradients is made, and the logits of one head per thread are the largest tensors held.

Every sum of rows is taken in a fixed order, by one thread, so the same input gives the same gradients to the last bit.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mirror_pl.retrieval.cpu import over_heads
from mirror_pl.retrieval.evidence import ENTROPY_EPS, TokenEvidence
from mirror_pl.retrieval.select import top_k_of_rows


def expand_cpu(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> TokenEvidence:
    """Attend to the `top_k` best slots of each token; arguments and result as of `expand`.

    Gradients flow to queries, keys and values, not through the choice of slots, as with ``torch.topk``.

    Memory: O(N x K) per thread, whatever the batch, and O(B x H x N x top_k).
    """
    weights, kept = _weights(queries, keys, top_k)
    # The gradient for the weights is embedding_bag's own; the one for the values would be slow (see `_Kept.spread`).
    sums = kept.sum(weights, values.detach())
    attended: Tensor = _ValuesGradient.apply(sums, values, weights.detach(), kept)  # type: ignore[no-untyped-call]
    usage = torch.bincount(kept.places.flatten(), weights.detach().flatten(), minlength=keys[..., 0].numel())
    return TokenEvidence(
        attended=attended.transpose(1, 2).flatten(2),
        max_weight=weights.amax(dim=-1),
        entropy=_entropy(weights),
        usage=usage.view(len(keys), -1).sum(dim=0).to(weights.dtype),
    )


def pool_sparse(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average each image's rows, with gradients; arguments and result as of `pool_chunked`."""
    weights, kept = _weights(queries, keys, top_k)
    sums = weights.new_zeros(len(queries), keys[..., 0].numel()).scatter_add(1, kept.places.flatten(1), weights.flatten(1))
    return (
        sums.view(len(queries), *keys.shape[:2]),
        weights.amax(dim=-1).mean(dim=(1, 2)),
        _entropy(weights).mean(dim=(1, 2)),
    )


def _weights(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, _Kept]:
    """Return the weights of the kept slots ``(B, H, N, top_k)``, and which these are."""
    best = queries.new_empty(*queries.shape[:3], top_k)
    places = torch.empty(best.shape, dtype=torch.int64)
    best_out, places_out = best.numpy(), places.numpy()
    slots = keys.shape[1]

    def one_head(image: int, head: int, logits: NDArray[np.floating]) -> None:
        best_out[image, head], columns = top_k_of_rows(logits, top_k)
        np.add(columns, head * slots, out=places_out[image, head])

    over_heads(queries.detach(), keys.detach(), one_head)
    kept = _Kept(places, slots)
    logits: Tensor = _Logits.apply(queries * queries.shape[-1] ** -0.5, keys, best, kept)  # type: ignore[no-untyped-call]
    return logits.softmax(dim=-1), kept


def _entropy(weights: Tensor) -> Tensor:
    return -(weights * (weights + ENTROPY_EPS).log()).sum(dim=-1)


class _Kept:
    """The slots that each row keeps, and products of tables with rows of weights that are zero for all others.

    Args:
        places: ``(B, H, N, k)`` int64, ``head * K + slot``: where they stand in a table ``(H * K, d)``.
        slots: K.
    """

    def __init__(self, places: Tensor, slots: int) -> None:
        self.places = places
        self.slots = slots

    def sum(self, weights: Tensor, table: Tensor) -> Tensor:
        """Add up rows of a table ``(H, K, d)``, weighted by ``(B, H, N, k)``: ``(B, H, N, d)``. Differentiable."""
        *outer, kept = self.places.shape
        places, weights = self.places.view(-1, kept), weights.reshape(-1, kept)
        return F.embedding_bag(places, table.flatten(0, 1), per_sample_weights=weights, mode="sum").view(*outer, -1)

    def spread(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Add up rows ``(B, H, N, d)`` slot by slot, weighted by ``(B, H, N, k)``: ``(H, K, d)``, the transposed product.

        With the weights sorted by slot, this is a sum of rows for each slot: embedding_bag again, in a tenth of the time
        that its own gradient for the table takes.
        """
        order, row_ids, starts = self._by_place
        sums = F.embedding_bag(row_ids, rows.flatten(0, 2), starts, per_sample_weights=weights.flatten()[order], mode="sum")
        return sums.view(-1, self.slots, rows.shape[-1])

    @cached_property
    def _by_place(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights sorted by place: positions, the rows that they are of, and where those of each place begin."""
        places, size = self.places.numpy().ravel(), self.places.shape[1] * self.slots
        counts = np.bincount(places, minlength=size)
        # Numpy sorts 16 bits by radix, ten times as fast as more. Torch's sort is as fast where it has all cores to itself;
        # where it has not, its threads wait for one another.
        order = places.astype(np.min_scalar_type(size - 1)).argsort(kind="stable")
        row_ids, starts = order // self.places.shape[-1], np.cumsum(counts) - counts
        return torch.from_numpy(order), torch.from_numpy(row_ids), torch.from_numpy(starts)


class _Logits(torch.autograd.Function):
    """The logits of kept slots, known already, as a function of queries ``(B, H, N, d)`` and keys ``(H, K, d)``."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, best: Tensor, kept: _Kept) -> Tensor:
        ctx.save_for_backward(queries, keys)
        ctx.kept = kept
        return best.view_as(best)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys = ctx.saved_tensors
        for_queries = ctx.kept.sum(grad, keys) if ctx.needs_input_grad[0] else None
        for_keys = ctx.kept.spread(grad, queries) if ctx.needs_input_grad[1] else None
        return for_queries, for_keys, None, None


class _ValuesGradient(torch.autograd.Function):
    """Sums of values, as they were added up, with the gradient for the values ``(H, K, d)``."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, values: Tensor, weights: Tensor, kept: _Kept) -> Tensor:
        del values
        ctx.save_for_backward(weights)
        ctx.kept = kept
        return sums.view_as(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        for_values = ctx.kept.spread(weights, grad) if ctx.needs_input_grad[1] else None
        return grad, for_values, None, None
