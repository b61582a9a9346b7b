"""A benchmark as a LightningDataModule: one dataset and one loader for all its subsets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from mirror_pl.benchmarks import BenchmarkIndex, Manifest, index_benchmark
from mirror_pl.errors import ConfigError
from mirror_pl.experiment.batch import Batch, collate
from mirror_pl.experiment.benchmark_dataset import BenchmarkDataset
from mirror_pl.images import IMAGE_SUFFIXES, CropCache, PreprocessSpec
from mirror_pl.images.crops import crop_count

LARGEST_BATCH = {"cpu": 16, "cuda": 256}
"""Images a batch, by kind of device, from which on more bring no speed; the second for every accelerator."""
MOST_WORKERS = 8
"""Workers taken at most when `num_workers` is left open."""


class BenchmarkDataModule(L.LightningDataModule):
    """The test set of one benchmark.

    Args:
        manifest: The benchmark.
        data_root: Folder that holds the benchmark's folder.
        batch_size: Crops a batch and process; "auto" takes `LARGEST_BATCH` of the device. A batch that does not fit into
            memory is split by the module that scores it.
        num_workers: Decoding processes a process; None takes one a core, `MOST_WORKERS` at most.
        reals: Folder of real images for subsets that have only fakes, instead of the benchmark's shared ones.
        pair: Pair such subsets with shared reals at all.
        index_cache: Folder to keep listings of the data in; None keeps none.
        cache_dir: Folder to keep preprocessed crops in, for any number of runs and recipes; None keeps none.
        cache_limit_gb: Size of that folder at most, in 1e9 bytes.
        crops: Which crops of each image; see `plan_crops`.
    """

    def __init__(
        self,
        manifest: Manifest,
        data_root: str | Path,
        batch_size: int | Literal["auto"] = "auto",
        num_workers: int | None = None,
        reals: str | Path | None = None,
        pair: bool = True,
        index_cache: str | Path | None = None,
        cache_dir: str | Path | None = None,
        cache_limit_gb: float = 100,
        crops: str = "center",
    ) -> None:
        super().__init__()
        if batch_size != "auto" and batch_size < 1:
            raise ConfigError(f"batch_size must be auto or at least 1, got {batch_size}")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"num_workers must be 0 or more, or null for one a core, got {num_workers}")
        if not 0 < cache_limit_gb < float("inf"):
            raise ConfigError(f"cache_limit_gb must be more than 0, got {cache_limit_gb}")
        self.manifest = manifest
        self.data_root = Path(data_root)
        self.reals = None if reals is None else Path(reals)
        self.pair = pair
        self.index_cache = None if index_cache is None else Path(index_cache)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.cache_limit_gb = cache_limit_gb
        self.batch_size = batch_size
        self.crops = crops
        self.num_workers = min(usable_cores(), MOST_WORKERS) if num_workers is None else num_workers
        self.spec: PreprocessSpec | None = None
        self.done: NDArray[np.bool_] | None = None
        self._index: BenchmarkIndex | None = None

    @property
    def index(self) -> BenchmarkIndex:
        """What is on disk; listed at the first call.

        Raises:
            DataError: If nothing of the benchmark is there.
        """
        if self._index is None:
            self._index = index_benchmark(
                self.manifest,
                self.data_root,
                IMAGE_SUFFIXES,
                pair=self.pair,
                reals=self.reals,
                cache=self.index_cache,
            )
        return self._index

    def use_recipe(self, spec: PreprocessSpec) -> None:
        """Preprocess by `spec`, the recipe of the detector that will see the pixels."""
        self.spec = spec

    def skip(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Leave out the batches all of whose samples are among `ids`.

        Batches are never made up anew: a detector's float32 scores depend, in their last digits, on what else is in a batch.

        Returns:
            ``(S,)`` whether a sample is left out.
        """
        done = np.zeros(len(self.index), bool)
        done[ids] = True
        starts = np.arange(0, len(done), self.images_a_batch)
        whole = np.minimum.reduceat(done, starts) if len(done) else done
        self.done = np.repeat(whole, self.images_a_batch)[: len(done)]
        return self.done

    @property
    def left(self) -> int:
        """How many samples are to be scored, by all processes together."""
        return len(self.index) if self.done is None else int((~self.done).sum())

    @property
    def images_a_batch(self) -> int:
        """Samples a batch: as many as have `batch_size` crops, or what its "auto" comes to on the trainer's device."""
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device.type
        auto = LARGEST_BATCH.get(device, LARGEST_BATCH["cuda"])
        return max(1, (auto if self.batch_size == "auto" else self.batch_size) // crop_count(self.crops))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's share of the samples.

        Raises:
            ConfigError: If `use_recipe` was not called.
        """
        if self.spec is None:
            raise ConfigError("BenchmarkDataModule: call use_recipe(detector.spec) before testing")
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device.type
        ranks, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        limit = int(self.cache_limit_gb * 1e9)
        cache = None if self.cache_dir is None else CropCache(self.cache_dir, self.spec, limit, self.crops)
        return DataLoader(
            BenchmarkDataset(self.index, self.spec, cache, self.crops),  # type: ignore[arg-type]  # yields Sample, collated to Batch
            batch_sampler=ShareOfBatches(len(self.index), self.images_a_batch, ranks, rank, self.done),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=device == "cuda",
        )


class ShareOfBatches(Sampler[list[int]]):
    """Every `ranks`-th batch from `rank` on: the ranks share all batches out, none padded, none twice.

    A batch is a run of samples that follow each other, whatever the number of ranks, so that scores do not depend on it. A
    rank that none is left for has one batch of no samples: it takes part in what the ranks do together.

    Args:
        size: Samples.
        batch_size: Samples a batch; the last one has what remains.
        ranks: Processes.
        rank: This one.
        done: ``(size,)`` samples to leave out; batches that consist of such only are left out.
    """

    def __init__(
        self, size: int, batch_size: int, ranks: int = 1, rank: int = 0, done: NDArray[np.bool_] | None = None
    ) -> None:
        batches = [range(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]
        left = [batch for batch in batches if done is None or not done[batch.start : batch.stop].all()]
        self.batches = left[rank::ranks] or [range(0)]

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
