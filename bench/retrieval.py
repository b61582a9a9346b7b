"""The memory bank against a plain dense module: seconds a batch, and peak resident memory beyond weights and tokens.

The yardstick attends as its definition says, holding (B, H, N, K) tensors; once with the bank's keys and values projected
anew for every image, as published code does, and once with them projected a batch. Needs torch and numpy only.

    python bench/retrieval.py [--repeats 5] [--speed-batch 4] [--memory-batch 32]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.detectors.config import MemoryBankConfig
from mirror_pl.detectors.memory_bank import BankEvidence, MemoryBank
from mirror_pl.retrieval import ENTROPY_EPS

TOKENS, WIDTH = 200, 1280


def make_bank() -> MemoryBank:
    """The published size, with random weights; orthogonal initialisation would take longer than the measurement."""
    torch.manual_seed(0)
    with torch.device("meta"):
        bank = MemoryBank(WIDTH, MemoryBankConfig())
    bank = bank.to_empty(device="cpu").eval()
    for parameter in bank.parameters():
        torch.nn.init.normal_(parameter, std=WIDTH**-0.5)
    return bank


def dense_bank(bank: MemoryBank, tokens: Tensor, project_per_image: bool) -> BankEvidence:
    """The same evidence, by plain dense tensors."""
    heads, top_k = bank.config.heads, bank.config.top_k
    memory = bank.memory.expand(len(tokens), -1, -1) if project_per_image else bank.memory[None]

    def split(tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)

    queries, keys, values = split(bank.q(tokens)), split(bank.k(memory)), split(bank.v(memory))
    logits = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    best, columns = logits.topk(top_k, dim=-1)
    weights = torch.full_like(logits, float("-inf")).scatter(-1, columns, best).softmax(dim=-1)
    rebuilt = bank.out((weights @ values).transpose(1, 2).flatten(2))
    entropy = -(weights * (weights + ENTROPY_EPS).log()).sum(dim=-1)
    return BankEvidence(weights.amax(dim=-1).mean(dim=(1, 2)), entropy.mean(dim=(1, 2)), (tokens - rebuilt).mean(dim=1))


WAYS: dict[str, Callable[[MemoryBank, Tensor], BankEvidence]] = {
    "dense, slots projected an image": lambda bank, tokens: dense_bank(bank, tokens, project_per_image=True),
    "dense, slots projected a batch": lambda bank, tokens: dense_bank(bank, tokens, project_per_image=False),
    "memory bank": lambda bank, tokens: bank(tokens),
}


def resident_mib(field: str) -> float:
    """Resident memory of this process: "VmRSS" now, "VmHWM" at its peak since that was reset (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


@torch.inference_mode()
def measure_memory(name: str, batch: int) -> None:
    """Print the MiB that one batch adds to the peak of a fresh process."""
    bank, tokens = make_bank(), torch.randn(batch, TOKENS, WIDTH)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_mib("VmRSS")
    WAYS[name](bank, tokens)
    print(resident_mib("VmHWM") - before)


@torch.inference_mode()
def measure_seconds(batch: int, repeats: int) -> dict[str, float]:
    """Median seconds a batch of each way, taken in turn."""
    bank, tokens = make_bank(), torch.randn(batch, TOKENS, WIDTH)
    reference = WAYS["memory bank"](bank, tokens)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            start = time.perf_counter()
            result = way(bank, tokens)
            seconds[name].append(time.perf_counter() - start)
            for got, want in zip(result, reference, strict=True):
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--speed-batch", type=int, default=4)
    parser.add_argument("--memory-batch", type=int, default=32)
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure_memory(options.memory_of, options.memory_batch)
        return

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"N = {TOKENS}, D = {WIDTH}, K = 4096, H = 8, k = 128, float32; medians of {options.repeats}\n")
    seconds = measure_seconds(options.speed_batch, options.repeats)
    memory = {}
    for name in WAYS:
        arguments = [sys.executable, __file__, "--memory-of", name, "--memory-batch", str(options.memory_batch)]
        memory[name] = float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    own_seconds, own_memory = seconds["memory bank"], memory["memory bank"]
    print(f"{'':<34}{f's, B = {options.speed_batch}':>12}{'ratio':>8}{f'MiB, B = {options.memory_batch}':>15}{'ratio':>8}")
    for name in WAYS:
        print(
            f"{name:<34}{seconds[name]:>12.3f}{seconds[name] / own_seconds:>8.1f}"
            f"{memory[name]:>15,.0f}{memory[name] / own_memory:>8.1f}"
        )


if __name__ == "__main__":
    main()
