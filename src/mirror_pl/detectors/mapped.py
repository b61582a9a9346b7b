"""Weights mapped from a file are converted without its pages staying in memory beside what was made of them."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mirror_pl.errors import CheckpointError


class _Mapping(NamedTuple):
    """Where a file lies in this process's memory: addresses, the place in the file that they begin at, and its inode."""

    start: int
    stop: int
    offset: int
    inode: int
    path: str


class MappedFiles:
    """Copies tensors that are mapped from files, by Linux's list of what is mapped where, read at the first copy.

    Pages of a mapping that were read stay in memory while any tensor of the file is used. So a tensor is read through a
    mapping of its own, which is gone with it. Where that cannot be, it is copied as it is: on other systems, and where
    something was written to it, which is not in the file.
    """

    @cached_property
    def _mappings(self) -> list[_Mapping]:
        found = []
        with suppress(OSError):
            for entry in Path("/proc/self/maps").read_bytes().splitlines():  # of bytes: a name may have line ends of Unicode
                line = os.fsdecode(entry)
                addresses, mode, offset, _, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith("/") and mode.endswith("p"):
                    start, stop = (int(address, 16) for address in addresses.split("-"))
                    found.append(_Mapping(start, stop, int(offset, 16), int(inode), path[0]))
        return found

    def converted(self, tensor: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """Return a tensor on a device and of a dtype: itself, where it is."""
        is_there = tensor.device == torch.device(device) and tensor.dtype == dtype
        return tensor if is_there else self.copied(tensor, device, dtype)

    def copied(self, tensor: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """Return a copy of a tensor on a device and of a dtype; it may be written to.

        Raises:
            CheckpointError: If its file has become shorter than it was when it was mapped.
        """
        source = tensor
        if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.nbytes >= mmap.PAGESIZE:
            with suppress(OSError):
                source = self._from_file(tensor)
        return source.to(device, dtype, copy=source is tensor)  # a mapping of its own is a copy

    def _from_file(self, tensor: Tensor) -> Tensor:
        """Return it through a mapping of its own; itself, where it is not what a file holds."""
        begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        found = next((each for each in self._mappings if each.start <= begin and end <= each.stop), None)
        if found is None or _is_written(begin, end):
            return tensor
        place = found.offset + begin - found.start
        ahead = place % mmap.ALLOCATIONGRANULARITY
        with Path(found.path).open("rb") as file:
            if os.fstat(file.fileno()).st_ino != found.inode:  # another file of that name by now
                return tensor
            if os.fstat(file.fileno()).st_size < place + tensor.nbytes:
                raise CheckpointError(f"{found.path} became shorter while it was read; copy it anew, then load it again")
            pages = mmap.mmap(
                file.fileno(), ahead + tensor.nbytes, flags=mmap.MAP_PRIVATE, offset=place - ahead
            )  # may be written to, which does not reach the file
        return torch.frombuffer(pages, dtype=tensor.dtype, count=tensor.numel(), offset=ahead).view(tensor.shape)


def _is_written(begin: int, end: int) -> bool:
    """Whether a page of a private mapping was written to: it is in memory or swapped out, and no longer the file's.

    The kernel's admin-guide/mm/pagemap: a number per page, of whose bits 63, 62 and 61 say these three.
    """
    first, last = begin // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        pages = np.frombuffer(os.pread(file.fileno(), 8 * (last - first), 8 * first), np.uint64)
    is_of_file = (pages >> np.uint64(61)) & np.uint64(1)
    is_anywhere = pages >> np.uint64(62)
    return len(pages) < last - first or bool(((is_anywhere > 0) & (is_of_file == 0)).any())
