"""A benchmark's index as a torch dataset: all subsets in one, each image decoded and preprocessed in the worker."""

from __future__ import annotations

from pathlib import PurePosixPath

from torch.utils.data import Dataset

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.experiment.batch import Sample
from mirror_pl.images import (
    CropCache,
    PreprocessSpec,
    UndecodableImageError,
    cut,
    decode,
    identity,
    plan_crops,
    preprocess,
)
from mirror_pl.scores import Status


class BenchmarkDataset(Dataset[Sample]):
    """Samples of a benchmark by their id.

    Args:
        index: The benchmark's images.
        spec: The recipe they are preprocessed by.
        cache: Crops of that recipe to take from and to add to; None decodes every image.
        crops: Which crops of each image; see `plan_crops`.
    """

    def __init__(
        self, index: BenchmarkIndex, spec: PreprocessSpec, cache: CropCache | None = None, crops: str = "center"
    ) -> None:
        self.index = index
        self.spec = spec
        self.cache = cache
        self.crops = crops

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, sample_id: int) -> Sample:
        """Decode and preprocess one image; one that cannot be read comes back as such, never as another one."""
        source, suffix = self.index.source(sample_id), PurePosixPath(self.index.paths[sample_id]).suffix
        label, group = int(self.index.labels[sample_id]), int(self.index.group_ids[sample_id])
        key = None if self.cache is None else identity(source, suffix)
        if self.cache is not None and key is not None:
            kept = self.cache.find(key)
            if kept is not None:
                return Sample(sample_id, label, group, Status.OK, kept, "")
        try:
            decoded = decode(source)
            if self.crops == "center":
                pixels = preprocess(decoded.image, suffix, self.spec)
            else:
                pixels = cut(decoded.image, suffix, self.spec, plan_crops(decoded.image.size, self.spec, self.crops))
        except UndecodableImageError as error:
            return Sample(sample_id, label, group, Status.UNDECODABLE, None, str(error))
        if decoded.flaw:
            return Sample(sample_id, label, group, Status.TRUNCATED, pixels, decoded.flaw)
        if self.cache is not None and key is not None and key == identity(source, suffix):  # unchanged while it was read
            self.cache.store(key, pixels)
        return Sample(sample_id, label, group, Status.OK, pixels, "")
