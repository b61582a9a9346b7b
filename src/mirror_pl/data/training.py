"""The images to train on as a LightningDataModule, with the sets to validate on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from mirror_pl.benchmarks import BenchmarkIndex, LabelTable, parse_label_table
from mirror_pl.data.batch import Batch, Sample, collate
from mirror_pl.data.benchmark import BenchmarkDataModule, all_same, device_type, workers
from mirror_pl.data.features import FeatureCache, FeatureDataset, collate_features
from mirror_pl.data.sampler import EpochSampler, InBatches, TrainingLoader, as_it_is
from mirror_pl.data.training_set import TrainingSet, find_training_images
from mirror_pl.errors import ConfigError, DataError, name_list
from mirror_pl.images import IMAGE_SUFFIXES, AugmentSpec, UndecodableImageError, augment, decode
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL
from mirror_pl.scores import Status
from mirror_pl.sources.place import path_of
from mirror_pl.sources.source import ImageSource
from mirror_pl.stopping import in_worker

Folders = str | Path | Sequence[str | Path] | None
"""A folder, several, or none."""


class TrainingDataModule(L.LightningDataModule):
    """Training crops, labelled real and fake; and, by name, sets to validate on.

    The processes share batches out by themselves. The same batches are made for any number of them.

    Args:
        real: Folders below which every image is real; see `find_training_images`, also for the next ones.
        fake: Folders below which every image is fake.
        root: Folder with folders of reals and fakes in it, as GenImage's.
        extra_real: Folders of reals that are drawn from for each fake.
        extra_reals_per_fake: How many are drawn.
        labels: Classes wanted, ``[0]`` for a bank of reals.
        max_per_class: Reals and fakes taken at most; None takes all.
        batch_size: Images per batch, all processes together; the published code's Phase 1 has 128.
        balanced: Draw as many reals as fakes in an epoch.
        num_workers: Decoding processes of each process; None takes one per core, 8 at most.
        prefetch: Batches that each of them keeps ready.
        augment: How crops are drawn; None takes the published way.
        seed: Decides which images are chosen, their order and their crops.
        index_cache: Folder to keep listings of the data in; None keeps none.
        labels_file: CSV file that labels what is in `root` in place of the names of folders, with a row an image; or the
            attributes of a `LabelTable` by their names.
        validation: Sets by name: a folder of reals and fakes, as ``benchmark=folder`` reads it, or a `BenchmarkDataModule`.

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
        validation: Mapping[str, str | Path | BenchmarkDataModule] | None = None,
        labels_file: str | Path | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if prefetch < 1:
            raise ConfigError(f"data.prefetch must be at least 1, got {prefetch}")
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        self.real = _folders(real)
        self.fake = _folders(fake)
        self.root = None if root is None else path_of(root)
        self.table = _table(labels_file)
        self.extra_real = _folders(extra_real)
        self.extra_reals_per_fake = extra_reals_per_fake
        self.labels = tuple(labels)
        self.max_per_class = max_per_class
        self.batch_size = batch_size
        self.balanced = balanced
        self.num_workers = workers(num_workers)
        self.prefetch = prefetch
        self.augment = AugmentSpec() if augment is None else augment
        self.seed = seed
        self.index_cache = None if index_cache is None else Path(index_cache)
        self.validation = {name: self._validation_set(part) for name, part in (validation or {}).items()}
        self._training_set: TrainingSet | None = None
        self._features: FeatureCache | None = None
        self._loader: TrainingLoader | None = None
        self._place: dict[str, int] | None = None

    def _validation_set(self, given: str | Path | BenchmarkDataModule) -> BenchmarkDataModule:
        if isinstance(given, BenchmarkDataModule):
            return given
        return BenchmarkDataModule("folder", given, num_workers=self.num_workers, index_cache=self.index_cache)

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
                table=self.table,
            )
        return self._training_set

    @property
    def scored_sets(self) -> dict[str, BenchmarkIndex]:
        """What the loaders of `val_dataloader` go over, in their order."""
        return {name: data.index for name, data in self.validation.items()}

    def check_validation(self) -> None:
        """See that the sets can judge a detector, before hours are spent on what they are to judge.

        Raises:
            ConfigError, DataError: If a subset is not there, or has no readable image of a class.
        """
        for name, data in self.validation.items():
            try:
                _check_set(data)
            except (ConfigError, DataError) as error:
                kind = ConfigError if isinstance(error, ConfigError) else DataError
                raise kind(f"validation.{name}: {error}") from error

    def use_features(self, features: FeatureCache) -> None:
        """Let all loaders of training images read these features of them instead of pixels."""
        self._features = features

    def setup(self, stage: str) -> None:
        """Pass the module's recipe on to the validation sets, and see that all processes have the same before them.

        Raises:
            DataError: If they do not.
        """
        if self.trainer is None:
            return
        recipe = getattr(self.trainer.lightning_module, "recipe", None)
        for data in self.validation.values():
            data.trainer = self.trainer
            data.follow(recipe)
        if not all_same(self.identity, self.trainer):
            raise DataError("the processes see different images; let copying finish, then start again")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint carries: what tells this data from other data, and which batch comes next."""
        return {**self.identity(), "next": None if self._loader is None else self._loader.state_dict()}

    def identity(self) -> dict[str, Any]:
        """Return what tells this data from other data; a training is gone on with on the same only."""
        return {
            "data": self.training_set.fingerprint(),
            "batch_size": self.batch_size,
            "balanced": self.balanced,
            "seed": self.seed,
            "validation": {name: data.index.fingerprint() for name, data in self.validation.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the batch that comes next, once it is sure that the data is that which the training began with.

        Lightning restores the loader's state too, but not where something has asked for the number of batches before, as a
        schedule does.

        Raises:
            DataError: Naming what is different.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        mine, following = self.identity(), state.get("next") or {"epoch": 0, "batch": 0}
        if not following["batch"]:  # from the beginning of an epoch on, batches may be of another size
            del mine["batch_size"]
        changed = [key for key in mine if state.get(key) != mine[key]]
        if changed:
            raise DataError(f"the checkpoint was made with another {name_list(changed)}; give the same, or start anew")
        self._place = following

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's shares of the batches.

        Raises:
            ConfigError: If the number of processes does not divide the batch size.
            DataError: As `training_set`; or if `balanced` and a class has no image.
        """
        trainer = self.trainer
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        sampler = self._sampler(ranks, rank)
        if trainer is not None:
            if trainer.overfit_batches:  # type: ignore[attr-defined]  # set by its connector
                return self._once(list(sampler))  # the first epoch's, time and again, as Lightning reads them by number
            sampler.set_epoch(trainer.current_epoch)  # Lightning's first pass begins before it names an epoch
        if self._place is not None:
            sampler.begin_at(self._place["epoch"], self._place["batch"])
        self._loader = TrainingLoader(
            self._samples(),
            sampler,
            num_workers=self.num_workers,
            pin_memory=device_type(trainer) == "cuda",
            worker_init_fn=in_worker,
            persistent_workers=self.num_workers > 0,
            prefetch_factor=self.prefetch if self.num_workers else None,
        )
        return self._loader

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return a loader for each validation set."""
        return [data.val_dataloader() for data in self.validation.values()]

    def first_batches(self, images: int) -> Iterable[Batch]:
        """Return a loader of the first batches that training will see, all of it for this process, of `images` or more."""
        return self._once(list(islice(self._sampler(1, 0), -(-images // self.batch_size))))

    def every_image(self) -> Iterable[Batch]:
        """Return a loader of all images once, all of it for this process, by rising id, as the first epoch sees them."""
        ids = range(len(self.training_set))
        return self._once([[(0, i) for i in ids[first : first + self.batch_size]] for first in ids[:: self.batch_size]])

    def _once(self, batches: list[list[tuple[int, int]]]) -> DataLoader[Batch]:
        # Without batch_size, torch gives collate_fn what the dataset returns, and no list of it.
        return DataLoader(
            self._samples(batches),
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=as_it_is,  # type: ignore[arg-type]  # see above
            worker_init_fn=in_worker,
        )

    def _samples(self, batches: list[list[tuple[int, int]]] | None = None) -> InBatches:
        if self._features is not None:
            return InBatches(FeatureDataset(self.training_set, self._features), collate_features, batches)
        return InBatches(TrainingDataset(self.training_set, self.augment, self.seed), collate, batches)

    def _sampler(self, ranks: int, rank: int) -> EpochSampler:
        if self.batch_size % ranks:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be shared by {ranks} processes; give a multiple of {ranks}"
            )
        share = self.batch_size // ranks
        return EpochSampler(self.training_set.labels, share, self.seed, ranks, rank, balanced=self.balanced)


def _folders(given: Folders) -> tuple[Path, ...]:
    if given is None:
        return ()
    return (path_of(given),) if isinstance(given, str | Path) else tuple(path_of(folder) for folder in given)


def _table(given: str | Path | Mapping[str, Any] | None) -> LabelTable | None:
    if given is None:
        return None
    return parse_label_table(given if isinstance(given, Mapping) else str(given), "data.labels_file")


def _check_set(data: BenchmarkDataModule) -> None:
    index = data.index
    if index.missing:
        raise DataError(f"subsets not on disk: {name_list(index.missing)}; the best detector would be that of the others")
    for subset, member in zip(index.subsets, index.members(), strict=True):
        for label in (REAL, FAKE):
            images = np.flatnonzero(member[index.group_ids] & (index.labels == label))
            if not any(_can_be_read(index.source(int(image))) for image in images):
                raise DataError(
                    f"none of the {len(images)} {LABEL_NAMES[label]} images of subset {subset} in {index.data_root} can be "
                    "read; balanced accuracy needs both classes"
                )


def _can_be_read(source: ImageSource) -> bool:
    try:
        decode(source)
    except UndecodableImageError:
        return False
    return True


class TrainingDataset(Dataset[Sample]):
    """Samples of a training set by epoch and id, each decoded and augmented in the process that reads it.

    A sample's augmentation depends on the seed, the epoch and its id, and on nothing else: not on the number of workers or
    processes, the batch it is in, or where a run was resumed.

    Args:
        training_set: The images.
        spec: How their crops are drawn.
        seed: 0 or more.
    """

    def __init__(self, training_set: TrainingSet, spec: AugmentSpec, seed: int) -> None:
        self.training_set = training_set
        self.spec = spec
        self.seed = seed

    def __len__(self) -> int:
        return len(self.training_set)

    def __getitem__(self, index: tuple[int, int]) -> Sample:
        """Decode and augment the image of ``(epoch, id)``.

        One that cannot be read comes back without pixels, never as another one, so that it is skipped and counted. So does a
        truncated one: what is made up for its missing part is neither real nor generated.
        """
        epoch, sample_id = index
        label = int(self.training_set.labels[sample_id])
        try:
            decoded = decode(self.training_set.source(sample_id))
        except UndecodableImageError as error:
            return Sample(sample_id, label, 0, Status.UNDECODABLE, None, str(error))
        if decoded.flaw:
            return Sample(sample_id, label, 0, Status.TRUNCATED, None, decoded.flaw)
        rng = np.random.default_rng([self.seed, epoch, sample_id])
        pixels = augment(decoded.image, self.spec, rng, fake=label == FAKE)
        return Sample(sample_id, label, 0, Status.OK, pixels, "")
