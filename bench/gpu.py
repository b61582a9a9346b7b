"""What only a GPU can tell, in eight minutes: a function per part, each in a process of its own with a time to end by.

Where there is no GPU, Triton's interpreter and small sizes show that the script runs; nothing of it is a figure of a GPU.
Needs torch, triton, transformers, peft, lightning, torchmetrics and pillow, but no hydra.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import detector as whole
import retrieval as bank
import training as steps
from mirror_pl.detectors.exact import exact_float32
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.retrieval import PooledEvidence, dense
from mirror_pl.retrieval.chunked import pool_chunked
from mirror_pl.retrieval.fused import Tile, pool_fused, select_fused, tile_of
from paired import Row, added_mib, best_device, matrix_bound, timed

DEVICE = best_device()
ON_GPU = DEVICE.type == "cuda"
TOLERANCE = 1e-5

Shape = tuple[int, int, int, int, int, int]
"""Images, heads, tokens, width, slots, slots kept."""
PUBLISHED: Shape = (32, 8, 200, 160, 4096, 128) if ON_GPU else (1, 1, 24, 16, 256, 16)
ODD: tuple[Shape, ...] = ((2, 2, 9, 20, 300, 17), (3, 1, 50, 16, 128, 64), (1, 2, 40, 40, 70, 70))
SHAPES = (*ODD, PUBLISHED, *(((5, 8, 196, 96, 4096, 128), (2, 8, 201, 160, 16384, 256)) if ON_GPU else ()))
TILES = (
    Tile(128, stages=2), Tile(64, stages=2), Tile(64, stages=3), Tile(128, 32, stages=2), Tile(128, 32, stages=3),
    Tile(128, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 128, 8, 2), Tile(64, 32, 4, 3), Tile(128), Tile(32, 64, 4, 3),
    Tile(32, stages=2), Tile(128, 64, 16, 2), Tile(256, 32, 8, 2), Tile(32, 128, 4, 2),
) if ON_GPU else (Tile(32), Tile(16, 32))  # fmt: skip
"""The likeliest first: the time may end before the list does."""


def sample(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Queries with the memory bank's strides, keys and values."""
    images, heads, tokens, width, slots, _ = shape
    torch.manual_seed(0)
    queries = torch.randn(images, tokens, heads * width, device=DEVICE).unflatten(-1, (heads, width)).transpose(1, 2)
    return queries, *torch.randn(2, heads, slots, width, device=DEVICE).unbind()


def evidence(queries: Tensor, sums: Tensor, max_weight: Tensor, entropy: Tensor, values: Tensor) -> PooledEvidence:
    """Put together what a kernel returns as `pool` does."""
    with exact_float32(DEVICE):
        attended = torch.einsum("bhk,hkd->bhd", sums / queries.shape[2], values)
    return PooledEvidence(attended.flatten(1), max_weight, entropy)


def differences(got: PooledEvidence, expected: PooledEvidence) -> dict[str, float]:
    return {
        name: float((getattr(got, name).double() - getattr(expected, name).double()).abs().max()) for name in got._fields
    }


def of_definition(queries: Tensor, keys: Tensor, values: Tensor, top_k: int) -> PooledEvidence:
    """The definition in float64, image by image."""
    found = []
    for image in queries.double().split(1):
        one = dense(image, keys.double(), values.double(), top_k)
        found.append((one.attended.mean(dim=1), one.max_weight.mean(dim=(1, 2)), one.entropy.mean(dim=(1, 2))))
    return PooledEvidence(*map(torch.cat, zip(*found, strict=True)))


WRONG: list[str] = []


def errors(part: str, found: Mapping[str, float], tolerance: float = TOLERANCE) -> Iterator[Row]:
    """Rows of errors; what is more than the tolerance is kept in `WRONG`."""
    for name, error in found.items():
        right = error <= tolerance  # false for NaN
        WRONG.extend([] if right else [f"{part}: {name}"])
        yield Row(name, "|error|", [error], part=part, note="" if right else f"WRONG: more than {tolerance}")


def raise_if_wrong() -> None:
    if WRONG:
        raise ValueError(f"wrong: {'; '.join(WRONG)}")


def kernel() -> Iterator[Row]:
    """Largest difference of kernel and torch from the definition in float64."""
    for shape in SHAPES:
        queries, keys, values = sample(shape)
        expected = of_definition(queries, keys, values, shape[-1])
        with exact_float32(DEVICE):
            chunked = pool_chunked(queries, keys, shape[-1])
        ways = {"torch, chunked": chunked, "kernel": pool_fused(queries, keys, shape[-1], tile_of(DEVICE))}
        for name, found in ways.items():
            of_way = differences(evidence(queries, *found, values), expected)
            yield from errors(f"B, H, N, d, K, k = {shape}", {f"{name}, {what}": of_way[what] for what in of_way})
    raise_if_wrong()


def tiles(repeats: int = 5) -> Iterator[Row]:
    """Images/s of each tile that can be launched; the line for `TUNED` in retrieval/fused.py is beside it."""
    queries, keys, _ = sample(PUBLISHED)
    images, heads, tokens, width, slots, top_k = PUBLISHED
    bound = matrix_bound(DEVICE, torch.float32, 2 * heads * tokens * width * slots)
    capability = torch.cuda.get_device_capability() if ON_GPU else None
    best: Row | None = None
    expected = pool_chunked(queries, keys, top_k)
    for tile in dict.fromkeys((tile_of(DEVICE), *TILES)):
        name = f"rows {tile.rows}, columns {tile.columns}, warps {tile.warps}, stages {tile.stages}"
        way = partial(pool_fused, queries, keys, top_k, tile)
        try:
            worst = max(float((got - want).abs().max()) for got, want in zip(way()[1:], expected[1:], strict=True))
            (row,) = timed({name: way}, repeats, DEVICE, "images/s", images, part=f"{PUBLISHED}", **bound)
        except Exception as error:  # more shared memory than there is, or what a compiler refuses
            yield Row(name, "images/s", [0.0], part=f"{PUBLISHED}", note=f"not launched: {str(error).splitlines()[:1]}")
            continue
        right = worst <= TOLERANCE
        row.note = f"{capability}: {tile}," if right else f"WRONG: differs from torch by {worst:.1e}"
        if right and (best is None or statistics.median(row.values) > statistics.median(best.values)):
            best = row
        yield row
    if best:
        yield replace(best, name=f"best: {best.name}")


def products(repeats: int = 5) -> Iterator[Row]:
    """Three tf32 products against one of float32: the same slots up to ties, evidence within 1e-5, and the time of both."""
    queries, keys, values = sample(PUBLISHED)
    top_k, part = PUBLISHED[-1], f"{PUBLISHED}"
    ways = {precision: tile_of(DEVICE)._replace(precision=precision) for precision in ("ieee", "tf32x3")}
    found, chosen = {}, {}
    for name, tile in ways.items():
        found[name] = evidence(queries, *pool_fused(queries, keys, top_k, tile), values)
        columns = select_fused(queries, keys, top_k, tile)
        assert columns is not None
        chosen[name] = columns.sort(dim=-1).values
    yield from errors(part, differences(found["tf32x3"], found["ieee"]))
    apart = (chosen["tf32x3"] != chosen["ieee"]).any(dim=-1)  # (B, H, N): there, other slots must have all but equal logits
    worst = 0.0
    for image, head, token in apart.nonzero().tolist()[:2000]:
        logits = keys[head].double() @ queries[image, head, token].double() * PUBLISHED[3] ** -0.5
        sums = [logits[chosen[name][image, head, token]].sum() for name in ways]
        worst = max(worst, float((sums[0] - sums[1]).abs()))
    yield Row("rows whose slots differ", "of rows", [float(apart.double().mean())], part=part)
    yield from errors(part, {"their kept logits, summed": worst})
    calls = {name: partial(pool_fused, queries, keys, top_k, tile) for name, tile in ways.items()}
    yield from timed(calls, repeats, DEVICE, "images/s", PUBLISHED[0], base="ieee", part=part)
    raise_if_wrong()


def noted(rows: Iterator[Row], note: str) -> Iterator[Row]:
    for row in rows:
        row.note = "; ".join(filter(None, (row.note, note)))
        yield row


def retrieval(repeats: int = 5) -> Iterator[Row]:
    """Retrieval and head against the dense module."""
    batch = 32 if ON_GPU else 1
    yield from noted(bank.rows(batch, batch if ON_GPU else 0, repeats if ON_GPU else 1), "aim: the bank's ratio 20")


def detector(repeats: int = 5) -> Iterator[Row]:
    """The detector in bfloat16 against its backbone alone, by kind of precision, compiled last."""
    backbone, batch = ("dinov3_hplus", 128) if ON_GPU else ("tiny", 2)
    model = whole.random_detector(backbone, DEVICE)
    bound = matrix_bound(DEVICE, torch.bfloat16, whole.operations(model))
    for kind in ("bf16-mixed", "bf16-true", "bf16-mixed, compiled", "bf16-true, compiled"):
        if kind == "bf16-true, compiled":
            model = whole.random_detector(backbone, DEVICE)  # the other one has its graph for other weights
        if kind.startswith("bf16-true"):
            model.to(torch.bfloat16)  # bank and head stay float32
        elif "compiled" in kind:
            model.backbone.float()
        if "compiled" in kind:
            model.compile_backbone()
        ways = whole.ways_of(model, batch, kind.startswith("bf16-mixed"), DEVICE)
        given = {"base": "backbone alone", "part": f"{backbone}, batch {batch}, {kind}", "warm_up": 2, **bound}
        found = timed(ways, repeats if ON_GPU else 1, DEVICE, "images/s", batch, **given)
        yield from noted(found, "aims: the detector's ratio 0.9, share 65 %")


def splitting() -> Iterator[Row]:
    """A batch for which memory is too small, since something else fills it: it is split, and the scores are the same."""
    backbone, batch = ("dinov3_b", 256) if ON_GPU else ("tiny", 64)
    model = whole.random_detector(backbone, DEVICE)
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device=DEVICE)
    if not ON_GPU:
        import ctypes

        ctypes.CDLL(None).mallopt(-3, 2**17)  # M_MMAP_THRESHOLD: what is freed goes back to the system at once
    with torch.inference_mode(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model(pixels[:1])
        expected: list[Tensor] = []
        needed = added_mib(lambda: expected.append(model(pixels).logit), DEVICE)
        filling = None
        if ON_GPU:
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0]
            filling = torch.empty(int(free - needed * 2**20 / 4), dtype=torch.uint8, device=DEVICE)
        else:
            import resource

            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (int(size + needed * 2**20 / 4), resource.RLIM_INFINITY))
        scorer = SplittingScorer(model)
        logits = scorer(pixels).logit
        del filling
    assert any("do not fit into memory" in str(one.message) for one in said), "it was not split"
    part = f"{backbone}, float32, {batch} images, a quarter of the memory that they need"
    yield Row("images at a time that fitted", "images", [float(scorer.most_together or 0)], part=part)
    yield from errors(part, {"logits against those of the whole batch": float((logits - expected[0]).abs().max())}, 1e-4)
    raise_if_wrong()


def scored(rank: int, ranks: int, port: int, folder: str) -> list[float]:
    """Be one process of an evaluation, and return the logits of all images."""
    from lightning.pytorch.strategies import DDPStrategy

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    device = torch.device(DEVICE.type, 0) if ON_GPU else DEVICE
    # Gloo: NCCL refuses two processes on one GPU.
    strategy = DDPStrategy(parallel_devices=[device] * ranks, process_group_backend="gloo")
    model = whole.random_detector(OF_PROCESSES, torch.device("cpu"))
    return whole.evaluate(model, Path(folder), workers=0, strategy=strategy, devices="auto" if ON_GPU else ranks)


OF_PROCESSES = "dinov3_b" if ON_GPU else "tiny"


def processes() -> Iterator[Row]:
    """An evaluation by two processes on one device: the scores of one process, and the seconds of both."""
    images, ranks = (512, 2) if ON_GPU else (20, 2)
    part = f"{images} files, {OF_PROCESSES}, float32, one device"
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        whole.make_pictures(Path(folder), images)
        start = time.perf_counter()
        alone = whole.evaluate(whole.random_detector(OF_PROCESSES, torch.device("cpu")), Path(folder), workers=0)
        yield Row("one process", "s", [time.perf_counter() - start], part=part)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        start = time.perf_counter()
        with ProcessPoolExecutor(ranks, multiprocessing.get_context("spawn")) as pool:
            together = list(pool.map(scored, range(ranks), [ranks] * ranks, [port] * ranks, [folder] * ranks))
        yield Row("two, their start and imports included", "s", [time.perf_counter() - start], part=part)
    worst = max(abs(one - other) for logits in together for one, other in zip(alone, logits, strict=True))
    yield from errors(part, {"logits of two processes against those of one": worst})
    raise_if_wrong()


def training(repeats: int = 3) -> Iterator[Row]:
    """Steps of both phases against the plain loop, on random features."""
    backbone, batch = ("dinov3_hplus", 16) if ON_GPU else ("tiny", 1)
    yield from noted(
        steps.rows(backbone, batch, batch if ON_GPU else 0, 1, repeats if ON_GPU else 1), "aim of Phase 1: ratio 2"
    )
