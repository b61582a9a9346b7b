"""Pixels to a verdict: the contract of all detectors, MIRROR itself, and its checkpoints. Knows no Lightning, no Hydra."""

from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.detector_config import BackboneConfig, DetectorConfig, HeadConfig, LoraConfig, MemoryBankConfig
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.detectors.registry import load_detector
from mirror_pl.detectors.verdict import CropScore, Prediction, Verdict

__all__ = [
    "BackboneConfig",
    "CropPolicy",
    "CropScore",
    "Detector",
    "DetectorConfig",
    "HeadConfig",
    "LoraConfig",
    "MemoryBankConfig",
    "MirrorDetector",
    "Prediction",
    "Verdict",
    "load_detector",
]
