"""Which samples make up which batch, on which process; and the loader that a checkpoint of Lightning's can go on from.

The samplers yield whole batches, as lists of keys. They derive from torch's DistributedSampler since Lightning puts one of
its own, which pads and repeats, in the place of any other: these share batches out themselves, none padded, none twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mirror_pl.data.batch import Batch
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL


class ShareOfBatches(DistributedSampler[Any]):
    """Every `ranks`-th batch from `rank` on: the ranks share all batches out.

    A batch is a run of samples that follow each other, whatever the number of ranks, so that scores do not depend on it. A
    rank that none is left for has one batch of no samples: it takes part in what the ranks do together.

    Args:
        size: Samples.
        batch_size: Samples per batch; the last one has what remains.
        ranks: Processes.
        rank: This one.
        done: ``(size,)`` samples to leave out; batches that consist of such only are left out.
    """

    def __init__(
        self, size: int, batch_size: int, ranks: int = 1, rank: int = 0, done: NDArray[np.bool_] | None = None
    ) -> None:
        super().__init__(range(size), ranks, rank, shuffle=False)  # type: ignore[arg-type]  # asks for its length only
        batches = [range(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]
        left = [batch for batch in batches if done is None or not done[batch.start : batch.stop].all()]
        self.batches = left[rank::ranks] or [range(0)]

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class EpochSampler(DistributedSampler[Any]):
    """Batches of ``(epoch, sample id)``.

    Every epoch is a permutation of its own of all samples, cut into global batches that the processes share out among them.
    What is left over at its end makes no batch, unless it is the only one. All processes make the same number of batches.

    A pass goes over the epoch named last, as with torch's DistributedSampler; Lightning names each in turn.

    Args:
        labels: ``(S,)`` int8, 0 real and 1 fake.
        batch_size: Samples per batch and process.
        seed: 0 or more; decides all permutations.
        ranks: Processes that share each global batch.
        rank: This process.
        balanced: Draw as many reals as fakes in an epoch: each sample of the larger class once, and those of the smaller
            one in as many permutations as that takes, the last one cut short. The balance is that of the epoch; a batch's
            is left to chance. Otherwise every sample is drawn once.

    Raises:
        ConfigError: If `batch_size` is less than 1, or `seed` less than 0.
        DataError: If there is no sample or, with `balanced`, none of a class.
    """

    def __init__(
        self,
        labels: NDArray[np.int8],
        batch_size: int,
        seed: int,
        ranks: int = 1,
        rank: int = 0,
        *,
        balanced: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        if not len(labels):
            raise DataError("there is no image to train on")
        super().__init__(range(len(labels)), ranks, rank, seed=seed)  # type: ignore[arg-type]  # asks for its length only
        self.batch_size = batch_size
        self._start = 0
        classes = [np.flatnonzero(labels == label) for label in (REAL, FAKE)] if balanced else [np.arange(len(labels))]
        for label, members in zip(LABEL_NAMES, classes, strict=False):
            if not len(members):
                raise DataError(
                    f"data.balanced=true needs images of both classes, got none that is {label}; set data.balanced=false"
                )
        self._classes = classes
        self._draws = max(map(len, classes))
        """Samples per epoch and class; not balanced, all are one class."""
        self.batches_per_epoch = max(1, len(classes) * self._draws // (batch_size * ranks))

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass go over `epoch`; over all of it, unless it is the one that `begin_at` named."""
        if epoch != self.epoch:
            self._start = 0
        super().set_epoch(epoch)

    def begin_at(self, epoch: int, batch: int) -> None:
        """Let a pass over `epoch` begin with its batch number `batch`, from 0 on; after the last one comes the next epoch.

        Raises:
            ConfigError: If there is no such batch.
        """
        if epoch < 0 or not 0 <= batch <= self.batches_per_epoch:
            raise ConfigError(f"no batch {batch} of epoch {epoch}: an epoch has {self.batches_per_epoch} batches")
        ended, batch = divmod(batch, self.batches_per_epoch)
        self.set_epoch(epoch + ended)
        self._start = batch

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and batch that the next pass begins with."""
        return self.epoch, self._start

    def __len__(self) -> int:
        """Return the batches of a whole epoch, also where the next pass begins inside it: Lightning adds those made."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(self.epoch, self._start)  # decided here, not at the first batch

    def _batches(self, epoch: int, start: int) -> Iterator[list[tuple[int, int]]]:
        size, order = self.batch_size * self.num_replicas, self._order(epoch)
        for batch in range(start, self.batches_per_epoch):
            share = order[batch * size : (batch + 1) * size][self.rank :: self.num_replicas]
            yield [(epoch, sample_id) for sample_id in share.tolist()]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the ids of an epoch in the order they are drawn in."""
        rng = np.random.default_rng([self.seed, epoch])
        if len(self._classes) == 1:
            return rng.permutation(self._classes[0])
        drawn = []
        for members in self._classes:
            rounds = -(-self._draws // len(members))
            drawn.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[: self._draws])
        return rng.permutation(np.concatenate(drawn))


class InBatches(Dataset[Batch]):
    """A dataset by lists of keys: its samples, collated to a batch in the process that reads them.

    Args:
        samples: By key.
        collate: Puts samples together.
        batches: Lists of keys, where a batch is asked for by its number instead; without, a number is a key.
    """

    def __init__(
        self,
        samples: Dataset[Any],
        collate: Callable[[list[Any]], Batch],
        batches: Sequence[Sequence[Any]] | None = None,
    ) -> None:
        self.samples = samples
        self.collate = collate
        self.batches = batches

    def __len__(self) -> int:
        return len(self.samples if self.batches is None else self.batches)  # type: ignore[arg-type]  # all of ours have one

    def __getitem__(self, keys: Sequence[Any] | int) -> Batch:
        if isinstance(keys, int):
            keys = [keys] if self.batches is None else self.batches[keys]
        return self.collate([self.samples[key] for key in keys])


def as_it_is(batch: Batch) -> Batch:
    """Return a batch that is put together already; torch would convert its parts."""
    return batch


class TrainingLoader(DataLoader[Batch]):
    """A loader of training batches that Lightning's checkpoints can go on from, in the middle of an epoch too.

    Lightning saves and restores the state of a loader that has `state_dict` and `load_state_dict`. The state counts batches
    that were given out, not those that workers have made ready.

    Args:
        dataset: By lists of keys.
        sampler: Names the batches.
        options: Of torch's loader.
    """

    sampler: EpochSampler

    def __init__(self, dataset: InBatches, sampler: EpochSampler, **options: Any) -> None:
        # Without batch_size, torch gives collate_fn what the dataset returns, and no list of it.
        super().__init__(dataset, sampler=sampler, batch_size=None, collate_fn=as_it_is, **options)  # type: ignore[arg-type]
        self._place: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch promises its own class of iterator
        epoch, given = self.sampler.place
        for batch in super().__iter__():
            given += 1
            self._place = epoch, given
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return epoch and batch that the next batch is."""
        epoch, batch = self._place or self.sampler.place
        ended, batch = divmod(batch, len(self.sampler))
        return {"epoch": epoch + ended, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state.

        Raises:
            ConfigError: If there is no such batch: the epoch has other batches than when the state was saved.
        """
        self.sampler.begin_at(state["epoch"], state["batch"])
