"""LightningDataModules: a benchmark to score, and images to train on. Knows no model."""

from mirror_pl.data.benchmark import BenchmarkDataModule
from mirror_pl.data.training import TrainingDataModule

__all__ = ["BenchmarkDataModule", "TrainingDataModule"]
