"""A benchmark's index as a torch dataset: all subsets in one, each image decoded and preprocessed in the worker."""

from __future__ import annotations

from pathlib import PurePosixPath

from torch.utils.data import Dataset

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.experiment.batch import Sample
from mirror_pl.images import PreprocessSpec, UndecodableImageError, decode, preprocess
from mirror_pl.scores import Status


class BenchmarkDataset(Dataset[Sample]):
    """Samples of a benchmark by their id."""

    def __init__(self, index: BenchmarkIndex, spec: PreprocessSpec) -> None:
        self.index = index
        self.spec = spec

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, sample_id: int) -> Sample:
        """Decode and preprocess one image; one that cannot be read comes back as such, never as another one."""
        path = self.index.paths[sample_id]
        label, group = int(self.index.labels[sample_id]), int(self.index.group_ids[sample_id])
        try:
            decoded = decode(self.index.source(sample_id))
        except UndecodableImageError as error:
            return Sample(sample_id, label, group, Status.UNDECODABLE, None, str(error))
        pixels = preprocess(decoded.image, PurePosixPath(path).suffix, self.spec)
        if decoded.flaw:
            return Sample(sample_id, label, group, Status.TRUNCATED, pixels, decoded.flaw)
        return Sample(sample_id, label, group, Status.OK, pixels, "")
