"""Whether the tensors of a file are those of a detector: all of them, no other, and of the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mirror_pl.errors import CheckpointError, name_list


def refuse_complex(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError for complex numbers, whose imaginary part would be dropped with no more than a warning."""
    found = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.is_complex()]
    if found:
        raise CheckpointError(f"{path} holds complex numbers, which no detector has: {name_list(found, 4)}")


def misfits(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> list[str]:
    """Return a line for each way in which tensors do not fit, indented, with a few names; none where they fit.

    Args:
        tensors: What a file holds.
        shapes: What the detector has, by the same names.
    """
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    misshapen = [
        f"{name} (file {tuple(tensor.shape)}, detector {tuple(shapes[name])})"
        for name, tensor in tensors.items()
        if name in shapes and tensor.shape != shapes[name]
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return [f"  {len(names)} {problem}: {name_list(names, 4)}" for problem, names in problems if names]
