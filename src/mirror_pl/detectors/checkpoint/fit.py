"""Whether the tensors of a file are weights, and those of a detector: all of them, no other, and of the same shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mirror_pl.errors import CheckpointError, name_list, shown

_DTYPES: Final = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
"""What torch computes with, and makes float32 of; of complex numbers it would drop a part with no more than a warning."""


def check_weights(tensors: Mapping[Any, Tensor], path: Path) -> None:
    """Make sure that what a file holds are names, and tensors with values that can be read.

    Raises:
        CheckpointError: Naming the first that is not.
    """
    for name, tensor in tensors.items():
        if type(name) is not str:
            problem = "its name is no text"
        elif tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
            problem = f"expected a dense one with values, got {tensor.layout}, {tensor.dtype}, device {tensor.device}"
        elif tensor.nbytes > (stored := tensor.untyped_storage().nbytes()):
            problem = f"its shape {tuple(tensor.shape)} takes {tensor.nbytes} bytes, of which the file has {stored}"
        else:
            continue
        raise CheckpointError(f"{path}: the tensor {shown(name)} cannot be a weight: {problem}")


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


def missing_layers(names: Iterable[str], prefix: str, depth: int) -> list[str]:
    """Return a line as `misfits` does if a file has nothing of some layers; asked before layers are built, which takes time.

    Args:
        names: Of the tensors in the file.
        prefix: What is before a layer's number in a name.
        depth: How many layers there should be.
    """
    there = {name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)}
    missing = [f"{prefix}{layer}.*" for layer in range(depth) if str(layer) not in there]
    return [f"  {len(missing)} of {depth} layers missing: {name_list(missing, 4)}"] if missing else []
