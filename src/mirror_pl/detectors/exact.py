"""Full float32 for what must not be rounded: the evidence, and what is decided from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Compute as the tensors' dtypes say, outside autocast and without TF32 products."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.autocast(device.type, enabled=False):
        if not before:  # as a rule; setting it is no small thing to a compiler
            yield
            return
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
