"""Retrieval by one Triton kernel on CUDA: whether it serves, its launch, and what becomes of the images it leaves over."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from mirror_pl.retrieval.chunked import blocks, join, pool_chunked
from mirror_pl.retrieval.evidence import ENTROPY_EPS

ROWS = 128
"""Rows a tile, of one head and as many images as they reach over. Every tile reads all keys of its head twice."""
COLUMNS = 64
"""Keys a block."""
FEW_ROWS = 16
"""Rows whose candidates are held in registers at a time."""
BLOCK_D, WARPS, STAGES, PROGRAMS_PER_PROCESSOR = 32, 8, 2, 1
"""Chosen so that the published size compiles for compute capability 9.0 within its shared memory, with few spills."""
PRECISION = "tf32x3"
"""Of the products on the matrix units: three tf32 products for one of float32, to about its last bit."""
ROUNDS = 12
"""Times that the keys are gone over for candidates, before a row is left over. One is enough as a rule."""
FRACTION_BITS = 40
"""Of a weight in fixed point: finer than float32 for every weight that matters, and 2**23 tokens fit into 63 bits."""
MOST_TOP_K = 256
"""Slots a row from which on the candidates of a few rows no longer fit into registers."""


def serves(queries: Tensor, top_k: int) -> bool:
    """Whether the kernel can take these: float32 on a CUDA device, and Triton installed."""
    return queries.is_cuda and queries.dtype == torch.float32 and top_k <= MOST_TOP_K and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None and torch.version.cuda is not None


@torch.no_grad()
def pool_fused(queries: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average each image's rows; arguments and result as of `pool_chunked`, in float32 and without gradients.

    Column sums are added up in fixed point: integers may be added in any order, so the result is the same bytes every time.
    """
    sums = torch.zeros(len(queries), *keys.shape[:2], dtype=torch.int64, device=queries.device)
    max_weight, entropy, left_over = _launch(queries, keys, top_k, sums=sums)
    mean_max, mean_entropy = max_weight.mean(dim=(1, 2)), entropy.mean(dim=(1, 2))
    column_sums = sums.double().mul_(2.0**-FRACTION_BITS).float()
    column_sums.masked_fill_(mean_max.isnan()[:, None, None], float("nan"))  # fixed point knows no NaN
    if len(left_over):
        again = pool_chunked(queries[left_over], keys, top_k)
        column_sums[left_over], mean_max[left_over], mean_entropy[left_over] = again
    return column_sums, mean_max, mean_entropy


@torch.no_grad()
def select_fused(queries: Tensor, keys: Tensor, top_k: int) -> Tensor:
    """Choose the slots of each row, ``(B, H, N, top_k)`` int64; arguments as of `pool_fused`."""
    columns = torch.empty(*queries.shape[:3], top_k, dtype=torch.int64, device=queries.device)
    _, _, left_over = _launch(queries, keys, top_k, columns=columns)
    if len(left_over):
        again = [block.weights.topk(top_k, dim=-1).indices for block in blocks(queries[left_over], keys, top_k)]
        columns[left_over] = join(again, queries.shape[1])
    return columns


def _launch(
    queries: Tensor, keys: Tensor, top_k: int, *, sums: Tensor | None = None, columns: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernel.

    Returns:
        Largest weight and entropy of each row, ``(B, H, N)``, and the images left over: those with a row of so many equal
        logits that the candidates do not fit into its scratch pad. Asking for them waits for the device.
    """
    from mirror_pl.retrieval.fused_kernel import retrieve  # Triton takes long to import, and is not everywhere

    if queries.stride(-1) != 1:
        queries = queries.contiguous()
    keys = keys.contiguous()
    batch, heads, tokens, width = queries.shape
    max_weight, entropy = (queries.new_empty(batch, heads, tokens) for _ in range(2))
    left_over = torch.empty(batch, heads, tokens, dtype=torch.int8, device=queries.device)
    groups = max(COLUMNS, 1 << (2 * top_k - 1).bit_length())
    tiles = heads * -(-batch * tokens // ROWS)
    programs = min(tiles, PROGRAMS_PER_PROCESSOR * _processors(queries.device))
    pad_logits = queries.new_empty(programs, ROWS, 2 * groups)
    pad_columns, pad_bounds, pad_counts = (
        torch.empty(programs, ROWS, width, dtype=torch.int32, device=queries.device) for width in (2 * groups, 1, 1)
    )
    retrieve[(programs,)](
        queries, keys, sums, columns, max_weight, entropy, left_over, pad_logits, pad_columns, pad_bounds, pad_counts,
        batch, heads, tokens, *queries.stride()[:3], tiles, width**-0.5, ENTROPY_EPS, 2.0**FRACTION_BITS,
        K=keys.shape[1], D=width, TOP_K=top_k, POOLED=sums is not None,
        ROWS=ROWS, FEW_ROWS=FEW_ROWS, COLUMNS=COLUMNS, GROUPS=groups, PAD=2 * groups,
        BLOCK_D=BLOCK_D, ROUNDS=ROUNDS, PRECISION=PRECISION, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return max_weight, entropy, left_over.flatten(1).any(dim=1).nonzero().flatten()


def _processors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; 1 for Triton's interpreter, which runs on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
