"""Files that `torch.save` writes: whole or not at all, small enough, and safe to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirror_pl.errors import OutputError
from mirror_pl.files import whole_file


def save_torch(path: Path, content: Mapping[str, Any], *, replace: bool = False) -> None:
    """Write `content` with `torch.save`, whole or not at all, making the folders above it.

    Args:
        path: Must not exist, but with `replace`.
        content: Plain values (`is_plain`) and tensors, nested in dicts.
        replace: Take the place of a file that is there.

    Raises:
        OutputError: If `path` exists or cannot be written.
    """
    if path.exists() and not replace:
        raise OutputError(f"{path} exists already; nothing is overwritten")
    with whole_file(path) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as opened:  # given a path, torch reports a full disk as a defect of its own
            torch.save(dict(content), opened)


def for_saving(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor as a file should hold it: on the CPU, contiguous, of `dtype` where one is given.

    Nothing is copied that is so already. A part of a larger tensor is: `torch.save` would write all of the larger one.
    """
    tensor = tensor.detach().to("cpu", dtype).contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def is_plain(value: Any) -> bool:
    """Whether a value can be part of JSON and of a file that is loaded safely: none of numpy's numbers, no enum, no path."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(type(key) is str and is_plain(part) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
