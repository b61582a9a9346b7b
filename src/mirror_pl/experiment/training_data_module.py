"""The images to train on as a LightningDataModule: one dataset, one sampler that names every batch, one loader."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from mirror_pl.errors import ConfigError
from mirror_pl.experiment.batch import Batch, collate
from mirror_pl.experiment.benchmark_data_module import MOST_WORKERS, usable_cores
from mirror_pl.experiment.epoch_sampler import EpochSampler
from mirror_pl.experiment.feature_cache import FeatureCache
from mirror_pl.experiment.feature_dataset import FeatureDataset, collate_features
from mirror_pl.experiment.training_dataset import TrainingDataset
from mirror_pl.experiment.training_set import TrainingSet, find_training_images
from mirror_pl.images import IMAGE_SUFFIXES, AugmentSpec
from mirror_pl.labels import FAKE, REAL

Folders = str | Path | Sequence[str | Path] | None
"""A folder, several, or none."""


class TrainingDataModule(L.LightningDataModule):
    """Training crops, labelled real and fake.

    The processes share batches out by themselves: the trainer needs ``use_distributed_sampler=False``. The same batches are
    made for any number of them.

    Args:
        real: Folders below which every image is real; see `find_training_images`, also for the next ones.
        fake: Folders below which every image is fake.
        root: Folder with folders of reals and fakes in it, as GenImage's.
        extra_real: Folders of reals that are drawn from for each fake.
        extra_reals_per_fake: How many are drawn.
        labels: Classes wanted, ``[0]`` for a bank of reals.
        max_per_class: Reals and fakes taken at most; None takes all.
        batch_size: Images a batch, all processes together; the published code's Phase 1 has 128.
        balanced: Draw as many reals as fakes in an epoch.
        num_workers: Decoding processes a process; None takes one a core, `MOST_WORKERS` at most.
        prefetch: Batches that each of them keeps ready.
        augment: How crops are drawn; None takes the published way.
        seed: Decides which images are chosen, their order and their crops.
        index_cache: Folder to keep listings of the data in; None keeps none.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        real: Folders = None,
        fake: Folders = None,
        root: str | Path | None = None,
        extra_real: Folders = None,
        extra_reals_per_fake: float = 1.0,
        labels: Collection[int] = (REAL, FAKE),
        max_per_class: int | None = None,
        batch_size: int = 128,
        balanced: bool = False,
        num_workers: int | None = None,
        prefetch: int = 2,
        augment: AugmentSpec | None = None,
        seed: int = 0,
        index_cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"num_workers must be 0 or more, or null for one a core, got {num_workers}")
        if prefetch < 1:
            raise ConfigError(f"data.prefetch must be at least 1, got {prefetch}")
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        self.real = _folders(real)
        self.fake = _folders(fake)
        self.root = None if root is None else Path(root)
        self.extra_real = _folders(extra_real)
        self.extra_reals_per_fake = extra_reals_per_fake
        self.labels = tuple(labels)
        self.max_per_class = max_per_class
        self.batch_size = batch_size
        self.balanced = balanced
        self.num_workers = min(usable_cores(), MOST_WORKERS) if num_workers is None else num_workers
        self.prefetch = prefetch
        self.augment = AugmentSpec() if augment is None else augment
        self.seed = seed
        self.index_cache = None if index_cache is None else Path(index_cache)
        self._epochs: int | None = None
        self._resume: tuple[int, int] | None = None
        self._training_set: TrainingSet | None = None
        self._features: FeatureCache | None = None

    @property
    def training_set(self) -> TrainingSet:
        """What is on disk and was chosen; listed at the first call.

        Raises:
            DataError: If a folder is missing, has no image, or is given under both labels; or a class has no image.
        """
        if self._training_set is None:
            self._training_set = find_training_images(
                self.real,
                self.fake,
                self.root,
                IMAGE_SUFFIXES,
                extra_real=self.extra_real,
                extra_reals_per_fake=self.extra_reals_per_fake,
                labels=self.labels,
                max_per_class=self.max_per_class,
                seed=self.seed,
                cache=self.index_cache,
            )
        return self._training_set

    def use_epochs(self, epochs: int, ranks: int = 1) -> int:
        """Let one pass over the loader be the whole training: all `epochs` in turn. Otherwise it is one epoch.

        Args:
            epochs: How many.
            ranks: Processes that share the batches.

        Returns:
            Batches an epoch.

        Raises:
            ConfigError: If `epochs` is less than 1, or `ranks` does not divide the batch size.
            DataError: As `training_set`; or if `balanced` and a class has no image.
        """
        self._epochs = epochs
        return self._sampler(ranks, 0).batches_an_epoch

    def resume_after(self, steps: int) -> None:
        """Begin where a run came to that made `steps` batches, counted over all epochs; for one process, or many."""
        batches = self._sampler(1, 0).batches_an_epoch
        self.resume_at(steps // batches, steps % batches)

    def resume_at(self, epoch: int, batch: int) -> None:
        """Begin with batch number `batch`, from 0 on, of `epoch`, as if all before had been trained on in this run.

        To be called before training starts. With Lightning, `batch` is the number of batches that its checkpoint counts as
        trained on, and its loop counts on from there.
        """
        self._resume = (epoch, batch)

    def use_features(self, features: FeatureCache) -> None:
        """Let all loaders read these features of the training set instead of images."""
        self._features = features

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's shares of the batches.

        Raises:
            ConfigError: If `resume_at` named a batch that no epoch has.
            DataError: As `training_set`; or if `balanced` and a class has no image.
        """
        trainer = self.trainer
        device = "cpu" if trainer is None else trainer.strategy.root_device.type
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        sampler = self._sampler(ranks, rank)
        if trainer is not None:  # Lightning's first pass begins before it names an epoch
            sampler.set_epoch(trainer.current_epoch)
        if self._resume is not None:
            sampler.resume_at(*self._resume)
        return self._loader(
            sampler,
            pin_memory=device == "cuda",
            persistent_workers=self.num_workers > 0,
            prefetch_factor=self.prefetch if self.num_workers else None,
        )

    def first_batches(self, images: int) -> DataLoader[Batch]:
        """Return a loader of the first batches that training will see, all of it for this process, of `images` or more."""
        return self._loader(list(islice(self._sampler(1, 0), -(-images // self.batch_size))))

    def every_image(self) -> DataLoader[Batch]:
        """Return a loader of all images once, all of it for this process, by rising id, as the first epoch sees them."""
        ids = range(len(self.training_set))
        return self._loader([[(0, i) for i in ids[first : first + self.batch_size]] for first in ids[:: self.batch_size]])

    def _loader(self, batches: Iterable[list[tuple[int, int]]], **options: Any) -> DataLoader[Batch]:
        # Their samples are collated to batches, which torch's annotations do not know.
        if self._features is not None:
            dataset: Any = FeatureDataset(self.training_set, self._features)
            return DataLoader(
                dataset, batch_sampler=batches, num_workers=self.num_workers, collate_fn=collate_features, **options
            )
        dataset = TrainingDataset(self.training_set, self.augment, self.seed)
        return DataLoader(dataset, batch_sampler=batches, num_workers=self.num_workers, collate_fn=collate, **options)

    def _sampler(self, ranks: int, rank: int) -> EpochSampler:
        if self.batch_size % ranks:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be shared by {ranks} processes; give a multiple of {ranks}"
            )
        share = self.batch_size // ranks
        labels = self.training_set.labels
        return EpochSampler(labels, share, self.seed, ranks, rank, balanced=self.balanced, epochs=self._epochs)


def _folders(given: Folders) -> tuple[Path, ...]:
    if given is None:
        return ()
    return (Path(given),) if isinstance(given, str | Path) else tuple(Path(folder) for folder in given)
