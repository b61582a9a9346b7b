"""The memory bank: prototypes learnt from real images, from which each image's features are rebuilt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirror_pl.detectors.detector_config import MemoryBankConfig
from mirror_pl.detectors.exact import exact_float32
from mirror_pl.retrieval import TokenEvidence, expand, pool


class BankEvidence(NamedTuple):
    """How hard a batch of images was to rebuild, and what could not be explained.

    Attributes:
        max_weight: ``(B,)`` in (0, 1], mean largest retrieval weight: near 1, single prototypes explain the tokens.
        entropy: ``(B,)`` in nats, mean retrieval entropy: high, many prototypes are needed.
        mean_residual: ``(B, D)``, mean over tokens of feature minus reconstruction, signed.
    """

    max_weight: Tensor
    entropy: Tensor
    mean_residual: Tensor


class MemoryBank(nn.Module):
    """K prototypes with query, key, value and output projections (paper Eq. 2; projections as in the published code).

    Everything is computed in float32 (float64 for float64 tokens), whatever the autocast: in half precision the
    1e-9 of the entropy underflows and 0 * log 0 is NaN. Keys and values of the slots are projected once and kept until a
    weight changes, not once an image.
    """

    def __init__(self, width: int, config: MemoryBankConfig) -> None:
        super().__init__()
        self.config = config
        self.memory = nn.Parameter(torch.empty(config.slots, width))
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        if not self.memory.is_meta:
            nn.init.orthogonal_(self.memory)
        self._projected: _Projected | None = None

    def forward(self, tokens: Tensor, *, retrieval_gradient: bool = True) -> BankEvidence:
        """Rebuild ``(B, N, D)`` tokens as far as a score needs it.

        Without `retrieval_gradient`, what is rebuilt and how hard it was are constants to autograd; the residual depends on
        the tokens all the same, by the mean that the reconstruction is taken from.
        """
        with exact_float32(tokens.device):
            tokens = _at_least_float32(tokens)
            with torch.set_grad_enabled(torch.is_grad_enabled() and retrieval_gradient):
                keys, values = self._keys_values(tokens.dtype)
                pooled = pool(self._queries(tokens), keys, values, self.config.top_k)
                reconstruction = _linear(pooled.attended, self.out)
            return BankEvidence(pooled.max_weight, pooled.entropy, tokens.mean(dim=1) - reconstruction)

    def reconstruct(self, tokens: Tensor) -> TokenEvidence:
        """Rebuild ``(B, N, D)`` tokens one by one; `attended` of the result is the reconstruction ``(B, N, D)``."""
        with exact_float32(tokens.device):
            tokens = _at_least_float32(tokens)
            keys, values = self._keys_values(tokens.dtype)
            evidence = expand(self._queries(tokens), keys, values, self.config.top_k)
            return evidence._replace(attended=_linear(evidence.attended, self.out))

    def _queries(self, tokens: Tensor) -> Tensor:
        """Project tokens ``(B, N, D)`` to queries ``(B, H, N, d)``."""
        return _linear(tokens, self.q).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

    def _keys_values(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the slots' keys and values, ``(H, K, d)`` each; kept until a weight changes, unless they are to learn."""
        sources = (self.memory, self.k.weight, self.v.weight)
        # Kept ones have no gradients: a bank that is to learn makes them anew, whatever its mode.
        if self.training or (torch.is_grad_enabled() and any(source.requires_grad for source in sources)):
            return self._project(self.k, dtype), self._project(self.v, dtype)
        kept = self._projected
        if kept is None or not kept.is_of(sources, dtype):
            with torch.inference_mode(False), torch.no_grad():  # so that the kept tensors serve in every mode
                keys, values = self._project(self.k, dtype), self._project(self.v, dtype)
            kept = self._projected = _Projected(sources, tuple(map(_version, sources)), dtype, keys, values)
        return kept.keys, kept.values

    def _project(self, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        projected = F.linear(self.memory.to(dtype), layer.weight.to(dtype))
        return projected.unflatten(-1, (self.config.heads, -1)).transpose(0, 1).contiguous()

    def _apply(self, fn: Any, recurse: bool = True) -> MemoryBank:
        self._projected = None  # the device or dtype is about to change
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> MemoryBank:
        """Set train or eval mode; what was kept of the slots is dropped."""
        self._projected = None
        return super().train(mode)


class _Projected(NamedTuple):
    """The slots' keys and values and the state of the weights they were made from.

    The weights themselves are held, not their ids or addresses, which a later tensor may be given again.
    """

    sources: tuple[Tensor, ...]
    versions: tuple[int, ...]
    dtype: torch.dtype
    keys: Tensor
    values: Tensor

    def is_of(self, sources: tuple[Tensor, ...], dtype: torch.dtype) -> bool:
        same = all(kept is source for kept, source in zip(self.sources, sources, strict=True))
        return same and dtype == self.dtype and self.versions == tuple(map(_version, sources))


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _linear(tensor: Tensor, layer: nn.Linear) -> Tensor:
    """Apply `layer` in the dtype of `tensor`, whatever its weights are stored in."""
    bias = None if layer.bias is None else layer.bias.to(tensor.dtype)
    return F.linear(tensor, layer.weight.to(tensor.dtype), bias)


def _version(tensor: Tensor) -> int:
    """Count of in-place changes of a tensor; tensors made in inference mode do not keep one."""
    return -1 if tensor.is_inference() else tensor._version
