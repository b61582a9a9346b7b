"""The memory bank and the head against a plain dense module: seconds a batch, and peak memory beyond weights and tokens.

The yardstick attends as its definition says, holding (B, H, N, K) tensors; once with the bank's keys and values projected
anew for every image, as published code does, and once with them projected a batch. Needs torch and numpy only.

    python bench/retrieval.py [--repeats 5] [--batch 4] [--memory-batch 32]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from paired import best_device, describe, matrix_ceiling, resident_bytes, seconds_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.detectors.detector_config import HeadConfig, MemoryBankConfig
from mirror_pl.detectors.head import DualBranchHead
from mirror_pl.detectors.memory_bank import BankEvidence, MemoryBank
from mirror_pl.retrieval import ENTROPY_EPS
from mirror_pl.retrieval.chunked import pool_chunked

TOKENS, WIDTH = 200, 1280
OWN = "memory bank and head"


class BankAndHead(nn.Module):
    """The published size with random weights; orthogonal initialisation would take longer than the measurement."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        with torch.device("meta"):
            self.bank = MemoryBank(WIDTH, MemoryBankConfig())
            self.head = DualBranchHead(WIDTH, HeadConfig())
        self.to_empty(device="cpu")
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=WIDTH**-0.5)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of real and fake ``(B, 2)`` of tokens ``(B, N, D)``."""
        return self.decide(tokens, self.bank(tokens))

    def decide(self, tokens: Tensor, evidence: BankEvidence) -> Tensor:
        """What the head makes of it; the first token stands for CLS."""
        perplexity = torch.stack([evidence.max_weight, evidence.entropy], dim=-1)
        return self.head(perplexity, evidence.mean_residual, tokens[:, 0])

    def dense(self, tokens: Tensor, project_per_image: bool) -> Tensor:
        """The same logits, by plain dense tensors."""
        bank = self.bank
        memory = bank.memory.expand(len(tokens), -1, -1) if project_per_image else bank.memory[None]
        queries, keys, values = self._split(bank.q(tokens)), self._split(bank.k(memory)), self._split(bank.v(memory))
        logits = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        best, columns = logits.topk(bank.config.top_k, dim=-1)
        weights = torch.full_like(logits, float("-inf")).scatter(-1, columns, best).softmax(dim=-1)
        rebuilt = bank.out((weights @ values).transpose(1, 2).flatten(2))
        entropy = -(weights * (weights + ENTROPY_EPS).log()).sum(dim=-1)
        return self.decide(
            tokens,
            BankEvidence(weights.amax(dim=-1).mean(dim=(1, 2)), entropy.mean(dim=(1, 2)), (tokens - rebuilt).mean(dim=1)),
        )

    def chunked(self, tokens: Tensor) -> Tensor:
        """Go the pooled path in torch operations, which serves where neither numpy nor Triton does."""
        bank = self.bank
        keys, values = (self._split(layer(bank.memory)[None])[0] for layer in (bank.k, bank.v))
        sums, max_weight, entropy = pool_chunked(self._split(bank.q(tokens)), keys, bank.config.top_k)
        attended = torch.einsum("bhk,hkd->bhd", sums / tokens.shape[1], values).flatten(1)
        return self.decide(tokens, BankEvidence(max_weight, entropy, tokens.mean(dim=1) - bank.out(attended)))

    def _split(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (self.bank.config.heads, -1)).transpose(1, 2)


WAYS: dict[str, Callable[[BankAndHead, Tensor], Tensor]] = {
    "dense, slots projected an image": lambda model, tokens: model.dense(tokens, project_per_image=True),
    "dense, slots projected a batch": lambda model, tokens: model.dense(tokens, project_per_image=False),
    "chunked, slots projected a batch": lambda model, tokens: model.chunked(tokens),
    OWN: lambda model, tokens: model(tokens),
}


def operations(tokens: int = TOKENS, width: int = WIDTH) -> int:
    """Operations an image that no way can do without: queries, their products with the keys, one attended row, output."""
    slots = MemoryBankConfig().slots
    return 2 * (tokens * width * width + tokens * slots * width + slots * width + width * width)


@torch.inference_mode()
def measure_memory_here(name: str, batch: int) -> float:
    """MiB that one batch adds to the peak: of the GPU, or of this process, which must be a fresh one."""
    device = best_device()
    model, tokens = BankAndHead().to(device), torch.randn(batch, TOKENS, WIDTH, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        WAYS[name](model, tokens)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes("VmRSS")
    WAYS[name](model, tokens)
    return (resident_bytes("VmHWM") - before) / 2**20


def measure_memory(batch: int) -> dict[str, float]:
    """MiB of each way, each in a fresh process."""
    arguments = [sys.executable, __file__, "--memory-batch", str(batch), "--memory-of"]
    return {
        name: float(subprocess.run([*arguments, name], capture_output=True, text=True, check=True).stdout) for name in WAYS
    }


@torch.inference_mode()
def measure(repeats: int, batch: int, device: torch.device) -> dict[str, float]:
    """Median seconds a batch of each way, in float32, after a check that all give the same logits."""
    model, tokens = BankAndHead().to(device), torch.randn(batch, TOKENS, WIDTH, device=device)
    expected = WAYS[OWN](model, tokens)
    for way in WAYS.values():
        torch.testing.assert_close(way(model, tokens), expected, atol=1e-5, rtol=1e-4)
    return seconds_of({name: lambda way=way: way(model, tokens) for name, way in WAYS.items()}, repeats, device)


def report(repeats: int, batch: int, memory_batch: int, device: torch.device) -> None:
    """Measure and print."""
    ceiling = matrix_ceiling(device, torch.float32)
    seconds = measure(repeats, batch, device)
    memory = measure_memory(memory_batch)
    print(f"N = {TOKENS}, D = {WIDTH}, K = 4096, H = 8, k = 128, float32; medians of {repeats}")
    print(f"share: of a float32 matrix product's {ceiling / 1e12:.2f} TFLOP/s, at {operations() / 1e9:.2f} GFLOP an image\n")
    print(f"{'':<34}{f'ms, B = {batch}':>12}{'ratio':>8}{'share':>8}{f'MiB, B = {memory_batch}':>15}{'ratio':>8}")
    for name in WAYS:
        print(
            f"{name:<34}{seconds[name] * 1e3:>12.2f}{seconds[name] / seconds[OWN]:>8.1f}"
            f"{operations() * batch / seconds[name] / ceiling:>8.0%}{memory[name]:>15,.0f}{memory[name] / memory[OWN]:>8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--memory-batch", type=int, default=32)
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(measure_memory_here(options.memory_of, options.memory_batch))
        return
    device = best_device()
    print(describe(device))
    report(options.repeats, options.batch, options.memory_batch, device)


if __name__ == "__main__":
    main()
