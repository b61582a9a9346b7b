"""A benchmark as a LightningDataModule: one dataset and one loader for all its subsets."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mirror_pl.benchmarks import BenchmarkIndex, LabelTable, Manifest, index_benchmark, load_manifest
from mirror_pl.data.batch import Batch, Sample, collate
from mirror_pl.data.sampler import InBatches, ShareOfBatches, as_it_is
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.images import IMAGE_SUFFIXES, Condition, CropCache, PreprocessSpec, condition_of, identity, prepare_each
from mirror_pl.images.condition import AS_IT_IS, FormatAlign
from mirror_pl.images.crops import crop_count
from mirror_pl.locate import miniature_dir
from mirror_pl.scores import Status
from mirror_pl.sources.place import path_of
from mirror_pl.stopping import in_worker

LARGEST_BATCH = {"cpu": 16, "cuda": 256}
"""Images per batch, by kind of device, from which on more bring no speed; the second for every accelerator."""
MOST_WORKERS = 8
"""Workers taken at most when `num_workers` is left open and nothing is measured."""
MEASURED_IMAGES = 8
"""Images that are decoded to see how long one takes, after a first one that only warms up."""


class BenchmarkDataModule(L.LightningDataModule):
    """The images of one benchmark, to be tested, validated on or predicted; each once, whatever the number of processes.

    How images become pixels is the recipe of the module that it meets in a trainer, its `recipe`; `spec` and `crops` say so
    where that has none.

    Args:
        manifest: The benchmark, or the name of one that is shipped.
        data_root: Folder that holds the benchmark's folder; None is ``data``, or MIRROR_DATA in the environment, and for the
            miniature where that is.
        batch_size: Crops per batch and process; "auto" takes `LARGEST_BATCH` of the device. A batch that does not fit into
            memory is split by the module that scores it.
        num_workers: Decoding processes of each process; None takes as many as keep up with the module that scores, by how
            long both take on a few images, one per core at most; in a training one per core, `MOST_WORKERS` at most.
        reals: Folder of real images for subsets that have only fakes, instead of the benchmark's shared ones.
        pair: Pair such subsets with shared reals at all.
        labels: What labels the images, in place of the names of folders.
        perturb: What is done to each decoded image, as settings have it; see `parse_perturbation`.
        perturb_seed: Of what is random in that.
        format_align: Which file formats are evened out; see `Condition`. None leaves that to the recipe.
        conditions: Under which each image is scored, instead of under the one that these three name: it is decoded once.
        index_cache: Folder to keep listings of the data in; None keeps none.
        cache_dir: Folder to keep preprocessed crops in, for any number of runs and recipes; None keeps none.
        cache_limit_gb: Size of that folder at most, in 1e9 bytes.
        spec: The recipe, where the module has none.
        crops: Which crops of each image, see `plan_crops`; None is the module's choice, or the central one.

    Raises:
        ConfigError: If there is no such benchmark, or a number is out of range.
    """

    def __init__(
        self,
        manifest: Manifest | str,
        data_root: str | Path | None = None,
        batch_size: int | Literal["auto"] = "auto",
        num_workers: int | None = None,
        reals: str | Path | None = None,
        pair: bool = True,
        index_cache: str | Path | None = None,
        cache_dir: str | Path | None = None,
        cache_limit_gb: float = 100,
        spec: PreprocessSpec | None = None,
        crops: str | None = None,
        labels: LabelTable | None = None,
        perturb: str | Sequence[str] | None = None,
        perturb_seed: int = 0,
        format_align: FormatAlign | None = None,
        conditions: Sequence[Condition] | None = None,
    ) -> None:
        super().__init__()
        if batch_size != "auto" and batch_size < 1:
            raise ConfigError(f"batch_size must be auto or at least 1, got {batch_size}")
        if not 0 < cache_limit_gb < float("inf"):
            raise ConfigError(f"cache_limit_gb must be more than 0, got {cache_limit_gb}")
        self.manifest = load_manifest(manifest) if isinstance(manifest, str) else manifest
        self.data_root = _default_root(self.manifest.name) if data_root is None else path_of(data_root)
        self.reals = None if reals is None else path_of(reals)
        self.pair = pair
        self.index_cache = None if index_cache is None else Path(index_cache)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.cache_limit_gb = cache_limit_gb
        self.batch_size = batch_size
        self.num_workers = num_workers if num_workers is None else workers(num_workers)
        self.spec = spec
        self.crops = crops
        self.labels = labels
        self.conditions = tuple(conditions or (condition_of(perturb, perturb_seed, format_align),))
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
                labels=self.labels,
            )
        return self._index

    @property
    def scored_sets(self) -> dict[str, BenchmarkIndex]:
        """What each of the loaders goes over, in their order; a single one has no name."""
        return {"": self.index}

    def setup(self, stage: str) -> None:
        """Take the recipe of the module, and see that all processes have the same files before them.

        Raises:
            ConfigError: If there is no recipe.
            DataError: If the processes see different files, or nothing of the benchmark is there.
        """
        if self.trainer is None:
            return
        self.follow(getattr(self.trainer.lightning_module, "recipe", None))
        if not all_same(self.index.fingerprint, self.trainer):
            raise DataError("data_root: the processes see different files; let copying finish, then start again")

    def follow(self, recipe: tuple[PreprocessSpec, str] | None) -> None:
        """Preprocess by a module's recipe, where none was given."""
        if recipe is not None:
            self.spec, self.crops = self.spec or recipe[0], self.crops or recipe[1]

    @property
    def num_samples(self) -> int:
        """How many samples there are: each image under each condition. Sample i is image ``i // conditions``."""
        return len(self.index) * len(self.conditions)

    def labels_of(self, samples: NDArray[np.integer]) -> tuple[NDArray[np.int8], NDArray[np.integer]]:
        """Return the labels of samples, and the groups that they count in: those of each condition follow each other."""
        image, condition = np.divmod(samples, len(self.conditions))
        return self.index.labels[image], self.index.group_ids[image] + condition * len(self.manifest.groups)

    def skip(self, samples: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Leave out the batches all of whose samples are among `samples`.

        Batches are never made up anew: a detector's float32 scores depend, in their last digits, on what else is in a batch.

        Returns:
            ``(S,)`` whether a sample is left out.
        """
        scored = np.zeros((len(self.index), len(self.conditions)), bool)
        scored.ravel()[samples] = True
        done: NDArray[np.bool_] = np.asarray(scored.all(axis=1))
        starts = np.arange(0, len(done), self.images_per_batch)
        whole = np.minimum.reduceat(done, starts) if len(done) else done
        self.done = np.repeat(whole, self.images_per_batch)[: len(done)]
        return np.repeat(self.done, len(self.conditions))

    @property
    def left(self) -> int:
        """How many samples are to be scored, by all processes together."""
        return self.num_samples if self.done is None else int((~self.done).sum()) * len(self.conditions)

    @property
    def crops_per_batch(self) -> int:
        """Crops scored at a time: `batch_size`, or what its "auto" comes to on the trainer's device."""
        auto = LARGEST_BATCH.get(device_type(self.trainer), LARGEST_BATCH["cuda"])
        return auto if self.batch_size == "auto" else self.batch_size

    @property
    def images_per_batch(self) -> int:
        """Images per batch: as many as have `crops_per_batch` crops, but one at least."""
        return max(1, self.crops_per_batch // (crop_count(self.crops or "center") * len(self.conditions)))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's share of the samples.

        Raises:
            ConfigError: If there is no recipe.
        """
        if self.spec is None:
            raise ConfigError(
                "BenchmarkDataModule: no recipe says how images become pixels; use it with a DetectorModule in a trainer, "
                "or give BenchmarkDataModule(..., spec=detector.spec)"
            )
        ranks, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        limit, crops = int(self.cache_limit_gb * 1e9), self.crops or "center"
        cache = None if self.cache_dir is None else CropCache(self.cache_dir, self.spec, limit, crops, self.conditions)
        dataset = BenchmarkDataset(self.index, self.spec, cache, crops, self.conditions)
        return DataLoader(
            InBatches(dataset, collate_images),
            batch_size=None,
            sampler=ShareOfBatches(len(self.index), self.images_per_batch, ranks, rank, self.done),
            # By what decoding takes: how much of it the cache will spare is not known, and it is left as it is.
            num_workers=self._workers_for(BenchmarkDataset(self.index, self.spec, None, crops, self.conditions)),
            collate_fn=as_it_is,  # type: ignore[arg-type]  # without batch_size, it is given no list
            pin_memory=device_type(self.trainer) == "cuda",
            worker_init_fn=in_worker,
        )

    def _workers_for(self, dataset: BenchmarkDataset) -> int:
        """Return how many processes decode: a quarter more than keep up with the module, where nobody says how many."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        given = self.num_workers is not None or not hasattr(module, "seconds_per_crop")
        if given or self.trainer is None or self.trainer.state.fn == "fit":  # which must not draw random numbers for this
            return workers(self.num_workers)
        at_most = usable_cores() // self.trainer.num_devices
        if at_most <= 1:
            return 1
        places = np.linspace(0, len(dataset) - 1, MEASURED_IMAGES + 1).astype(int).tolist()
        seconds = []
        for place in places:
            began = time.perf_counter()
            dataset[place]
            seconds.append(time.perf_counter() - began)
        crops = crop_count(self.crops or "center") * len(self.conditions)
        # As many as a batch of this run has, so that no other size is compiled, or taken for too large.
        together = min(self.crops_per_batch, crops * min(self.images_per_batch, len(dataset)))
        wanted = 1.25 * statistics.mean(seconds[1:]) / (crops * module.seconds_per_crop(together))
        return max(1, min(math.ceil(wanted), at_most))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return what `test_dataloader` returns."""
        return self.test_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return what `test_dataloader` returns."""
        return self.test_dataloader()


class BenchmarkDataset(Dataset[list[Sample]]):
    """Images of a benchmark by their id: each decoded and preprocessed in the process that reads it, once.

    Args:
        index: The benchmark's images.
        spec: The recipe they are preprocessed by.
        cache: Crops of that recipe to take from and to add to; None decodes every image.
        crops: Which crops of each image; see `plan_crops`.
        conditions: Under which each image is scored.
    """

    def __init__(
        self,
        index: BenchmarkIndex,
        spec: PreprocessSpec,
        cache: CropCache | None = None,
        crops: str = "center",
        conditions: Sequence[Condition] = (AS_IT_IS,),
    ) -> None:
        self.index = index
        self.spec = spec
        self.cache = cache
        self.crops = crops
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, image: int) -> list[Sample]:
        """Return an image's samples, one per condition; one that cannot be read is such, and never another one."""
        source, path = self.index.source(image), self.index.paths[image]
        suffix = PurePosixPath(path).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:  # a row of a Parquet file may have any name
            suffix = ""
        image_id = path if any(condition.perturbation.steps for condition in self.conditions) else ""
        key = None if self.cache is None else identity(source, suffix, image_id)
        kept = None if self.cache is None or key is None else self.cache.find(key)
        if kept is not None:
            several = kept.reshape(len(self.conditions), *kept.shape[-4 if self.crops != "center" else -3 :])
            return [self._sample(image, place, Status.OK, pixels, "") for place, pixels in enumerate(several)]
        samples = []
        for place, found in enumerate(prepare_each(source, self.spec, self.crops, self.conditions, suffix, path)):
            pixels = found.pixels if found.pixels is None or self.crops != "center" else found.pixels[0]
            samples.append(self._sample(image, place, Status[found.status.upper()], pixels, found.reason))
        good = [sample.pixels for sample in samples if sample.status is Status.OK and sample.pixels is not None]
        # Kept only if it is unchanged while it was read.
        if self.cache is not None and key and len(good) == len(samples) and key == identity(source, suffix, image_id):
            self.cache.store(key, np.stack(good).reshape(self.cache.shape))
        return samples

    def _sample(self, image: int, place: int, status: Status, pixels: NDArray[np.uint8] | None, reason: str) -> Sample:
        """Return the sample of an image under the condition at `place`; see `BenchmarkDataModule.labels_of`."""
        group = int(self.index.group_ids[image]) + place * len(self.index.manifest.groups)
        number = image * len(self.conditions) + place
        return Sample(number, int(self.index.labels[image]), group, status, pixels, reason)


def collate_images(images: list[list[Sample]]) -> Batch:
    """Put the samples of images together."""
    return collate([sample for samples in images for sample in samples])


def _default_root(name: str) -> Path:
    return miniature_dir() / "test" if name == "miniature" else Path(os.environ.get("MIRROR_DATA", "data"))


def workers(wanted: int | None) -> int:
    """Return how many decoding processes to take: `wanted`, or with None one per core, `MOST_WORKERS` at most.

    Raises:
        ConfigError: If `wanted` is negative.
    """
    if wanted is not None and wanted < 0:
        raise ConfigError(f"num_workers must be 0 or more, or null for one per core, got {wanted}")
    return min(usable_cores(), MOST_WORKERS) if wanted is None else wanted


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_type(trainer: L.Trainer | None) -> str:
    """Return the kind of device that a trainer computes on."""
    return "cpu" if trainer is None else trainer.strategy.root_device.type


def of_all(mine: Any, trainer: L.Trainer) -> Sequence[Any]:
    """Return what each process of a trainer has, in the order of their ranks; `mine` may be anything that can be pickled."""
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [mine]
    everybodys: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everybodys, mine)
    return everybodys


def all_same(value: Any, trainer: L.Trainer) -> bool:
    """Whether `value`, called where it is a function, is equal in all processes; with one it is not even computed."""
    if trainer.world_size == 1:
        return True
    found = of_all(value() if callable(value) else value, trainer)
    return all(other == found[0] for other in found)
