"""Which samples make up which batch of which epoch, on which process: decided by a seed, so that any batch can be named."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mirror_pl.errors import ConfigError, DataError
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, sample id)``, for a loader's ``batch_sampler``.

    Every epoch is a permutation of its own of all samples, cut into global batches that the processes share out among them.
    What is left over at its end makes no batch, unless it is the only one. All processes make the same number of batches.

    A pass goes over the epoch named last, as with torch's DistributedSampler; Lightning names each in turn. Nothing here
    moves on by itself: loaders read ahead of what was trained on. With `epochs`, one pass goes over all of them instead, so
    that workers need not wait for the end of each.

    Args:
        labels: ``(S,)`` int8, 0 real and 1 fake.
        batch_size: Samples a batch and process.
        seed: 0 or more; decides all permutations.
        ranks: Processes that share each global batch.
        rank: This process.
        balanced: Draw as many reals as fakes in an epoch: each sample of the larger class once, and those of the smaller
            one in as many permutations as that takes, the last one cut short. The balance is that of the epoch; a batch's
            is left to chance. Otherwise every sample is drawn once.
        epochs: Let a pass go over so many epochs, from the first or from where it is resumed; None lets it go over one.

    Attributes:
        batches_an_epoch: Batches of a whole epoch.

    Raises:
        ConfigError: If `batch_size` or `epochs` is less than 1, or `seed` less than 0.
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
        epochs: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        if epochs is not None and epochs < 1:
            raise ConfigError(f"epochs must be at least 1, got {epochs}")
        if not len(labels):
            raise DataError("there is no image to train on")
        self.batch_size = batch_size
        self.seed = seed
        self.ranks = ranks
        self.rank = rank
        self.epochs = epochs
        self.epoch = 0
        self._start = (0, 0)
        classes = [np.flatnonzero(labels == label) for label in (REAL, FAKE)] if balanced else [np.arange(len(labels))]
        for label, members in zip(LABEL_NAMES, classes, strict=False):
            if not len(members):
                raise DataError(
                    f"data.balanced=true needs images of both classes, got none that is {label}; set data.balanced=false"
                )
        self._classes = classes
        self._draws = max(map(len, classes))
        """Samples an epoch and class; not balanced, all are one class."""
        self.batches_an_epoch = max(1, len(classes) * self._draws // (batch_size * ranks))

    @property
    def sampler(self) -> EpochSampler:
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass go over `epoch`. One that goes over all epochs, it does not change."""
        self.epoch = epoch

    def resume_at(self, epoch: int, batch: int) -> None:
        """Let passes over `epoch` begin with its batch number `batch`, from 0 on; those over other epochs stay whole.

        Raises:
            ConfigError: If there is no such batch; the one after the last is allowed, and leaves none.
        """
        last = self.batches_an_epoch
        if epoch < 0 or not 0 <= batch <= last or (self.epochs is not None and epoch * last + batch > self.epochs * last):
            epochs = "" if self.epochs is None else f", and there are {self.epochs} epochs"
            raise ConfigError(f"cannot resume at batch {batch} of epoch {epoch}: an epoch has {last} batches{epochs}")
        self.epoch = epoch
        self._start = (epoch, batch)

    def __len__(self) -> int:
        """Return the batches of a whole epoch, also where the next pass begins inside it: Lightning adds those made.

        With `epochs`, the batches that are left.
        """
        if self.epochs is None:
            return self.batches_an_epoch
        return (self.epochs - self._start[0]) * self.batches_an_epoch - self._start[1]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Decided here, not at the first batch: with and without workers alike.
        if self.epochs is not None:
            return self._batches(range(self._start[0], self.epochs), self._start[1])
        return self._batches(range(self.epoch, self.epoch + 1), self._start[1] if self._start[0] == self.epoch else 0)

    def _batches(self, epochs: range, start: int) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size * self.ranks
        for epoch in epochs:
            order = self._order(epoch)
            for batch in range(start, self.batches_an_epoch):
                share = order[batch * size : (batch + 1) * size][self.rank :: self.ranks]
                yield [(epoch, sample_id) for sample_id in share.tolist()]
            start = 0

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
