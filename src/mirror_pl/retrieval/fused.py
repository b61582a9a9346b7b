"""Retrieval by one Triton kernel on CUDA: when it can be used, how it is launched, and how the images left over are done."""

from __future__ import annotations

import subprocess
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mirror_pl.retrieval.chunked import blocks, join, pool_chunked
from mirror_pl.retrieval.evidence import ENTROPY_EPS

COLUMNS, WARPS, PRECISION = 64, 8, "tf32x3"


class Tile(NamedTuple):
    """How the kernel is launched.

    Attributes:
        rows: A tile, of one head and as many images as they reach over. Every tile reads all keys of its head twice, so the
            more rows the better.
        columns: Keys a block.
        warps: Of a program.
        stages: Of the pipeline.
        precision: Of the products on the matrix units: "tf32x3" is three tf32 products for one of float32, to about its last
            bit; "ieee" is none of the matrix units'.
    """

    rows: int
    columns: int = COLUMNS
    warps: int = WARPS
    stages: int = 1
    precision: str = PRECISION


TUNED: dict[tuple[int, int], Tile] = {}
"""By compute capability, what ``python bench gpu:tiles`` has found to be the fastest there."""
TILES = ((221_184, Tile(128, stages=2)), (81_920, Tile(32, stages=2)), (0, Tile(32)))
"""For other GPUs: shared memory a block that a device must have, in bytes, and the tile. Found by compiling the published
size for Hopper (227 KiB), for Ampere and Ada (99 to 163 KiB), and for Turing (64 KiB)."""
FEW_ROWS = 16
"""Rows whose candidates are held in registers at a time."""
BLOCK_D, PROGRAMS_PER_PROCESSOR = 32, 1
ROUNDS = 12
"""Times that the keys are gone over for candidates, before a row is left over. One is enough as a rule."""
FRACTION_BITS = 40
"""Of a weight in fixed point: finer than float32 for every weight that matters, and 2**23 tokens fit into 63 bits."""
MOST_TOP_K = 256
"""Slots a row from which on the candidates of a few rows no longer fit into registers."""


_failure: str | None = None


def why_not_fused() -> str | None:
    """Return why the kernel could not be compiled or launched here, after which it is not tried again; None if it could."""
    return _failure


def serves(queries: Tensor, top_k: int) -> bool:
    """Whether the kernel can take these: float32 on a CUDA device, and Triton installed and working."""
    fits = queries.is_cuda and queries.dtype == torch.float32 and top_k <= MOST_TOP_K
    return fits and _failure is None and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None and torch.version.cuda is not None


@torch.no_grad()
def pool_fused(queries: Tensor, keys: Tensor, top_k: int, tile: Tile | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Average each image's rows; arguments and result as of `pool_chunked`, in float32 and without gradients.

    Column sums are added up in fixed point: integers may be added in any order, so the result is the same bytes every time.

    Args:
        queries: As of `pool_chunked`, like the next two.
        keys: Likewise.
        top_k: Likewise.
        tile: How to launch, to measure that: what goes wrong is raised. None is the device's own, and torch where it fails.
    """
    sums = torch.zeros(len(queries), *keys.shape[:2], dtype=torch.int64, device=queries.device)
    try:
        max_weight, entropy, left_over = _launch(queries, keys, top_k, tile, sums=sums)
        _check_once(queries, keys, top_k, max_weight, entropy, left_over)
    except Exception as error:
        if tile is not None:
            raise
        _give_up(error)
        return pool_chunked(queries, keys, top_k)
    mean_max, mean_entropy = max_weight.mean(dim=(1, 2)), entropy.mean(dim=(1, 2))
    column_sums = sums.double().mul_(2.0**-FRACTION_BITS).float()
    column_sums.masked_fill_(mean_max.isnan()[:, None, None], float("nan"))  # fixed point knows no NaN
    if len(left_over):
        again = pool_chunked(queries[left_over], keys, top_k)
        column_sums[left_over], mean_max[left_over], mean_entropy[left_over] = again
    return column_sums, mean_max, mean_entropy


@torch.no_grad()
def select_fused(queries: Tensor, keys: Tensor, top_k: int, tile: Tile | None = None) -> Tensor | None:
    """Choose the slots of each row, ``(B, H, N, top_k)`` int64; arguments as of `pool_fused`. None if that failed."""
    columns = torch.empty(*queries.shape[:3], top_k, dtype=torch.int64, device=queries.device)
    try:
        max_weight, entropy, left_over = _launch(queries, keys, top_k, tile, columns=columns)
        _check_once(queries, keys, top_k, max_weight, entropy, left_over)
    except Exception as error:
        if tile is not None:
            raise
        _give_up(error)
        return None
    if len(left_over):
        again = [block.weights.topk(top_k, dim=-1).indices for block in blocks(queries[left_over], keys, top_k)]
        columns[left_over] = join(again, queries.shape[1])
    return columns


_checked: set[torch.device] = set()
TOLERANCE = 1e-3
"""Largest difference of a first image's evidence that is rounding; what a kernel gets wrong, it gets wrong by far more."""


def _check_once(queries: Tensor, keys: Tensor, top_k: int, max_weight: Tensor, entropy: Tensor, left_over: Tensor) -> None:
    """Compare the evidence of the first image on each device with the chunked path's.

    Compilers for GPUs have defects too, and no test of ours runs on every GPU there is.

    Raises:
        RuntimeError: If they differ.
    """
    if queries.device in _checked or 0 in left_over.tolist():
        return
    _checked.add(queries.device)
    _, expected_weight, expected_entropy = pool_chunked(queries[:1], keys, top_k)
    for got, expected in ((max_weight, expected_weight), (entropy, expected_entropy)):
        difference = (got[0].mean() - expected[0]).abs().item()
        if difference > TOLERANCE:  # false for NaN, which the images bring
            raise RuntimeError(f"it gives other evidence than torch, by {difference:.2g}")


def _give_up(error: Exception) -> None:
    """Do without the kernel from now on, and say so once: Triton may lack a compiler, or a GPU the shared memory.

    Raises:
        Exception: The same, if it is none of compiling and launching: a defect of ours must not pass for a slow GPU.
    """
    global _failure
    of_triton = type(error).__module__.startswith("triton")
    foreseen = isinstance(error, RuntimeError | ImportError | OSError | subprocess.SubprocessError)
    if isinstance(error, torch.OutOfMemoryError) or not (of_triton or foreseen):
        raise error
    _failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    warnings.warn(f"the fused kernel does not work here ({_failure}); retrieval goes on in torch, slower", stacklevel=3)


def _launch(
    queries: Tensor,
    keys: Tensor,
    top_k: int,
    tile: Tile | None = None,
    *,
    sums: Tensor | None = None,
    columns: Tensor | None = None,
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
    tile = tile or tile_of(queries.device)
    rows = tile.rows
    groups = max(tile.columns, 1 << (2 * top_k - 1).bit_length())
    tiles = heads * -(-batch * tokens // rows)
    programs = min(tiles, PROGRAMS_PER_PROCESSOR * _processors(queries.device))
    pad_logits = queries.new_empty(programs, rows, 2 * groups)
    pad_columns, pad_bounds, pad_counts = (
        torch.empty(programs, rows, width, dtype=torch.int32, device=queries.device) for width in (2 * groups, 1, 1)
    )
    retrieve[(programs,)](
        queries, keys, sums, columns, max_weight, entropy, left_over, pad_logits, pad_columns, pad_bounds, pad_counts,
        batch, heads, tokens, *queries.stride()[:3], tiles, width**-0.5, ENTROPY_EPS, 2.0**FRACTION_BITS,
        K=keys.shape[1], D=width, TOP_K=top_k, POOLED=sums is not None,
        ROWS=rows, FEW_ROWS=FEW_ROWS, COLUMNS=tile.columns, GROUPS=groups, PAD=2 * groups,
        BLOCK_D=BLOCK_D, ROUNDS=ROUNDS, PRECISION=tile.precision, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return max_weight, entropy, left_over.flatten(1).any(dim=1).nonzero().flatten()


def tile_of(device: torch.device) -> Tile:
    """Return how the kernel is launched on a device; Triton's interpreter, on a CPU, has none of a GPU's limits."""
    if device.type != "cuda":
        return TILES[-1][1]
    properties: Any = torch.cuda.get_device_properties(device)  # whose annotations lag behind
    fitting = next(tile for shared, tile in TILES if shared <= properties.shared_memory_per_block_optin)
    return TUNED.get((properties.major, properties.minor), fitting)


def _processors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; 1 for Triton's interpreter, which runs on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
