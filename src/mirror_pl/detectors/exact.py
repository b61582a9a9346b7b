"""What computes in float32, whatever the rest does: bank and head, and on a GPU without TF32, which the backbone may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Switch(NamedTuple):
    """Where torch keeps one of its two settings, and what allows and forbids TF32 there."""

    holder: Any
    name: str
    allow: Any
    forbid: Any

    @contextmanager
    def set_to(self, allowed: bool) -> Iterator[None]:
        before = getattr(self.holder, self.name)
        if (before == self.allow) == allowed:
            yield
            return
        setattr(self.holder, self.name, self.allow if allowed else self.forbid)
        try:
            yield
        finally:
            setattr(self.holder, self.name, before)


def _switches() -> tuple[_Switch, _Switch]:
    """Of matrix products and of convolutions. Since 2.9 torch has new ones, and refuses the old once a new one was used."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        return _Switch(matmul, "fp32_precision", "tf32", "ieee"), _Switch(cudnn.conv, "fp32_precision", "tf32", "ieee")
    return _Switch(matmul, "allow_tf32", True, False), _Switch(cudnn, "allow_tf32", True, False)


@contextmanager
def float32_products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Say how a CUDA device multiplies float32, whatever the defaults: cuDNN's is TF32, cuBLAS's is not.

    Args:
        device: On another kind of device nothing is changed.
        tf32: Round the factors to TF32; otherwise multiply in full.
    """
    with ExitStack() as stack:
        if device.type == "cuda":
            for switch in _switches():
                stack.enter_context(switch.set_to(tf32))
        yield


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Compute as the tensors' dtypes say, outside autocast and without TF32 products."""
    with torch.autocast(device.type, enabled=False), float32_products(device, tf32=False):
        yield


def no_narrower(convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a conversion of a module's tensors that moves as `convert` does, and rounds no float32 to fewer bits.

    For what computes in float32, under ``half()``, ``to(torch.bfloat16)`` or Lightning's ``bf16-true``.
    """

    def kept(tensor: Tensor) -> Tensor:
        converted = convert(tensor)
        is_rounded = converted.is_floating_point() and converted.dtype.itemsize < 4 <= tensor.dtype.itemsize
        return tensor.to(converted.device) if is_rounded else converted

    return kept
