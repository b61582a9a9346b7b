"""Images that were found and chosen, in columns: what the index of a benchmark and a training set have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirror_pl.sources.place import stat_of
from mirror_pl.sources.source import ImageSource

EXAMPLES = 3
"""Paths kept as examples of what was passed over."""


@dataclass
class PassedOver:
    """Files that were seen but are no samples, counted by reason, with a few examples of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Count one more file passed over for `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(path)


@dataclass(frozen=True)
class Listed(ABC):
    """Images, each at a position that is its id.

    Attributes:
        paths: One an image, with forward slashes, below its `base`. For one in a shard: the shard's path, a slash, and its
            name there; `source` says where its bytes are.
        labels: ``(S,)`` int8, 0 real and 1 fake.
        sizes: ``(S,)`` int64, bytes; -1 where a file's size cannot be read, and in a Parquet file, which does not say.
        mtimes: ``(S,)`` int64, ns since the epoch; -1 where it cannot be read.
        shards: Paths of the shards that `shard_ids` point into, likewise.
        shard_ids: ``(S,)`` int32: the shard that an image lies in; -1 for a file of its own.
        offsets: ``(S,)`` int64: where an image is in its shard, as `ImageSource` takes it; -1 for a file of its own.
    """

    paths: Sequence[str]
    labels: NDArray[np.int8]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    shards: tuple[str, ...]
    shard_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    @abstractmethod
    def base(self, image: int) -> Path:
        """Return the folder that an image's path is relative to, by its id."""

    def source(self, image: int) -> ImageSource:
        """Say where an image's bytes are, by its id."""
        shard = self.shard_ids[image]
        if shard < 0:
            return ImageSource(self.base(image) / self.paths[image])
        return ImageSource(self.base(image) / self.shards[shard], int(self.offsets[image]), int(self.sizes[image]))

    def sizes_to_tell_by(self) -> list[int]:
        """Return each image's size; of one whose shard does not say, that of the shard, which changes with its content."""
        sizes: list[int] = self.sizes.tolist()
        of_shards: dict[Path, int] = {}
        for image in np.flatnonzero((self.sizes < 0) & (self.shard_ids >= 0)).tolist():
            shard = self.source(image).path
            if shard not in of_shards:
                of_shards[shard] = _size(shard)
            sizes[image] = of_shards[shard]
        return sizes


def _size(path: Path) -> int:
    try:
        return stat_of(path).st_size
    except OSError:
        return -1
