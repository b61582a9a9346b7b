"""The memory bank and the head against a plain dense module: images/s, and peak memory beyond weights and tokens.

The yardstick attends as its definition says, holding (B, H, N, K) tensors; once with the bank's keys and values projected
anew for every image, as published code does, and once with them projected a batch. Needs torch and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mirror_pl.detectors.detector_config import HeadConfig, MemoryBankConfig
from mirror_pl.detectors.head import DualBranchHead
from mirror_pl.detectors.memory_bank import BankEvidence, MemoryBank
from mirror_pl.retrieval import ENTROPY_EPS
from mirror_pl.retrieval.chunked import pool_chunked
from paired import Row, added_mib, best_device, fresh, matrix_bound, quick, timed

TOKENS, WIDTH = 200, 1280
OWN = "memory bank and head"
DENSE = "dense, slots projected an image"


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
    DENSE: lambda model, tokens: model.dense(tokens, project_per_image=True),
    "dense, slots projected a batch": lambda model, tokens: model.dense(tokens, project_per_image=False),
    "chunked, slots projected a batch": lambda model, tokens: model.chunked(tokens),
    OWN: lambda model, tokens: model(tokens),
}


def operations(tokens: int = TOKENS, width: int = WIDTH) -> int:
    """Operations an image that no way can do without: queries, their products with the keys, one attended row, output."""
    slots = MemoryBankConfig().slots
    return 2 * (tokens * width * width + tokens * slots * width + slots * width + width * width)


@torch.inference_mode()
def memory_of(name: str, batch: int) -> float:
    """MiB that one batch adds to the peak."""
    device = best_device()
    model, tokens = BankAndHead().to(device), torch.randn(batch, TOKENS, WIDTH, device=device)
    return added_mib(lambda: WAYS[name](model, tokens), device)


@quick(memory_batch=2, least_s=0)
def rows(batch: int = 4, memory_batch: int = 32, repeats: int = 7, least_s: float = 1) -> Iterator[Row]:
    """Images/s of each way in float32, after a check that all give the same logits; and memory, each in a fresh process."""
    device, part = best_device(), f"N = {TOKENS}, D = {WIDTH}, K = 4096, H = 8, k = 128, float32"
    with torch.inference_mode():
        model, tokens = BankAndHead().to(device), torch.randn(batch, TOKENS, WIDTH, device=device)
        expected = WAYS[OWN](model, tokens)
        for way in WAYS.values():
            torch.testing.assert_close(way(model, tokens), expected, atol=1e-5, rtol=1e-4)
        ways = {name: lambda way=way: way(model, tokens) for name, way in WAYS.items()}
        bound = matrix_bound(device, torch.float32, operations())
        bound |= {"least_s": least_s, "base": DENSE, "part": f"{part}, B = {batch}"}
        yield from timed(ways, repeats, device, "images/s", batch, **bound)
    for name in WAYS if memory_batch else ():
        yield Row(
            name,
            "MiB",
            [fresh(memory_of, name, memory_batch, device=device)],
            base=DENSE,
            part=f"{part}, memory, B = {memory_batch}",
        )
