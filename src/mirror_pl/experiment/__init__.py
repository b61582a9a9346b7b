"""Everything Lightning: the detector as a LightningModule, a benchmark as a LightningDataModule, and evaluation."""

from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.detector_module import DetectorModule
from mirror_pl.experiment.evaluate import Predictions, evaluate
from mirror_pl.experiment.score_keeper import PartsOfRun

__all__ = ["BenchmarkDataModule", "DetectorModule", "PartsOfRun", "Predictions", "evaluate"]
