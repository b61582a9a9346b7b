"""Files that `torch.save` writes: whole or not at all, small enough, and safe to load; a look at one before that."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor

from mirror_pl.errors import CheckpointError, OutputError
from mirror_pl.files import open_stored_zip, whole_file


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
        try:
            with temporary.open("wb") as opened:
                torch.save(dict(content), opened)
        except RuntimeError as error:  # torch's, of its archive that could not be closed: why is in the error before
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def for_saving(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor as a file should hold it: on the CPU, contiguous, of `dtype` where one is given.

    Nothing is copied that is so already. A part of a larger tensor is: `torch.save` would write all of the larger one.
    """
    tensor = tensor.detach().to("cpu", dtype).contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def is_plain(value: Any) -> bool:
    """Whether a value can be part of JSON and of a file that is loaded safely: none of numpy's numbers, no enum, no path.

    One that is nested deeply is not, nor one of so many parts that writing it would take long: a pickle can hold the same
    list many times over in a few bytes.
    """
    waiting, room = [(value, 0)], 100_000
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Mapping):
            if type(value) is not dict or any(type(key) is not str for key in value):
                return False
            parts = list(value.values())
        elif type(value) in (list, tuple):
            parts = list(value)
        elif value is None or type(value) in (bool, int, float, str):
            continue
        else:
            return False
        room -= len(parts)
        if room < 0 or depth > 50:
            return False
        waiting += [(part, depth + 1) for part in parts]
    return True


_PICKLE_BYTES: Final = 2**21
"""Of the pickle in a file, which has names and shapes: 200 bytes a tensor. What it says can take a hundred times as much."""
_WORK: Final = 2**19
"""Steps that its pickle may take: 40 a tensor. A value that is named again counts with all that is in it, since a tuple that
is a key is hashed so, and an integer of more than 32 bits for many: they can be chosen to have the same hash."""
_NEEDED: Final = {
    "collections OrderedDict", "collections Counter", "argparse Namespace", "builtins set", "__builtin__ set", "torch Size",
    "torch device", "torch.nn.parameter Parameter", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
}  # fmt: skip
"""What dense tensors and plain values are made with. torch lets more in, such as `bytearray`, which takes any size."""


def check_torch_file(path: Path) -> bool:
    """Look at a file before `torch.load` is given it, without building anything, and return whether it is a zip archive.

    Refused are the few bytes that would take much memory or time: members that are compressed or overlap, calls of anything
    but what dense tensors and plain values need, and values that hold themselves over and over again.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, or would take much more memory or time than its size.
        CheckpointError: If it asks for more than dense tensors and plain values.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch.load tells
            file.seek(0)
            opened = io.BytesIO(file.read(_PICKLE_BYTES))
            for _ in range(5):  # magic number, protocol, machine, content, names of storages
                _check_pickle(opened, path)
            return False
    with open_stored_zip(path) as archive:
        for member in archive.infolist():
            if member.filename.lower().endswith("/data.pkl"):  # torch takes capitals for it too
                if member.file_size > _PICKLE_BYTES:
                    raise ValueError(f"its {member.filename} has {member.file_size} bytes, expected {_PICKLE_BYTES} at most")
                _check_pickle(io.BytesIO(archive.read(member)), path)
    return True


def _check_pickle(opened: IO[bytes], path: Path) -> None:
    """Follow a pickle's stack, on which each value is only a list of one number: how many values there are in it."""
    stack: list[list[int] | None] = []  # None is a mark
    memo: dict[Any, list[int] | None] = {}
    work = 0
    argument: Any
    for opcode, argument, _place in pickletools.genops(opened):
        name = opcode.name
        if name in ("GLOBAL", "INST") and not _is_needed(argument):
            raise CheckpointError(
                f"{path} was refused: loading it would run code. It asks for more than dense tensors and plain values "
                f"({argument.replace(' ', '.')})"
            )
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            value = memo[argument]
            work += value[0] if value else 0
            stack.append(value)
        else:
            work += 50 if name == "LONG1" else 0
            used: list[list[int]] = []
            for kind in reversed(opcode.stack_before):
                if kind is pickletools.stackslice:
                    used += iter(stack.pop, None)
                elif kind is not pickletools.markobject:
                    used += filter(None, [stack.pop()])
            result = used[-1] if name in _FILLING else [1]
            result[0] += sum(value[0] for value in used if value is not result)
            stack += [None if kind is pickletools.markobject else result for kind in opcode.stack_after]
        work += 1
        if work > _WORK:
            raise ValueError("it holds too many values, or the same ones too many times over")


_FILLING: Final = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
"""What changes a value, instead of making one of others."""


def _is_needed(name: str) -> bool:
    module, _, thing = name.partition(" ")
    if module in ("torch", "torch.cuda", "torch.storage"):
        is_storage = thing.endswith("Storage") and not thing.startswith("Q")
        return is_storage or name in _NEEDED or isinstance(getattr(torch, thing, None), torch.dtype)
    return name in _NEEDED
