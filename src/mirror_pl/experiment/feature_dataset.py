"""A training set whose features are kept, as a torch dataset: tokens in place of pixels, nothing decoded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mirror_pl.experiment.batch import Batch, Flaw
from mirror_pl.experiment.feature_cache import FeatureCache
from mirror_pl.experiment.training_set import TrainingSet


class FeatureSample(NamedTuple):
    """One image of a training set, or the reason why it has no features.

    Attributes:
        id: Its position in the training set.
        label: 0 real, 1 fake.
        tokens: ``(N, D)`` float32; None where the image cannot be read.
        flaw: Why not; None where it can.
    """

    id: int
    label: int
    tokens: NDArray[np.float32] | None
    flaw: Flaw | None


class FeatureDataset(Dataset[FeatureSample]):
    """Samples of a training set by epoch and id, as `TrainingDataset` has them; the same in every epoch.

    Args:
        training_set: The images.
        features: Theirs.
    """

    def __init__(self, training_set: TrainingSet, features: FeatureCache) -> None:
        self.training_set = training_set
        self.features = features

    def __len__(self) -> int:
        return len(self.training_set)

    def __getitem__(self, index: tuple[int, int]) -> FeatureSample:
        """Read the tokens of ``(epoch, id)``; an image that could not be read comes back without, to be counted."""
        _, sample_id = index
        label = int(self.training_set.labels[sample_id])
        flaw = self.features.flaws.get(sample_id)
        return FeatureSample(sample_id, label, None if flaw else self.features.tokens(sample_id), flaw)


def collate_features(samples: list[FeatureSample]) -> Batch:
    """Put samples together to a batch without pixels."""
    good = [(sample.id, sample.label, torch.from_numpy(sample.tokens)) for sample in samples if sample.tokens is not None]
    return Batch(
        ids=torch.tensor([sample_id for sample_id, _, _ in good], dtype=torch.int64),
        pixels=torch.empty(len(good), 3, 0, 0, dtype=torch.uint8),
        labels=torch.tensor([label for _, label, _ in good], dtype=torch.int64),
        groups=torch.zeros(len(good), dtype=torch.int64),
        flaws=[sample.flaw for sample in samples if sample.flaw is not None],
        tokens=torch.stack([tokens for _, _, tokens in good]) if good else torch.empty(0, 1, 1),
    )
