"""A training set as a torch dataset: each image decoded and augmented in the worker, by chance that it alone decides."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from mirror_pl.experiment.batch import Sample
from mirror_pl.experiment.training_set import TrainingSet
from mirror_pl.images import AugmentSpec, UndecodableImageError, augment, decode
from mirror_pl.labels import FAKE
from mirror_pl.scores import Status


class TrainingDataset(Dataset[Sample]):
    """Samples of a training set by epoch and id.

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
