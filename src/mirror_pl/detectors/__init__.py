"""Pixels to a verdict: the contract of all detectors, MIRROR itself, and its checkpoints. Knows no Lightning, no Hydra."""

from mirror_pl.detectors.checkpoint import load_detector
from mirror_pl.detectors.config import BackboneConfig, DetectorConfig, HeadConfig, LoraConfig, MemoryBankConfig
from mirror_pl.detectors.contract import Detector, Verdict
from mirror_pl.detectors.mirror import MirrorDetector

__all__ = [
    "BackboneConfig",
    "Detector",
    "DetectorConfig",
    "HeadConfig",
    "LoraConfig",
    "MemoryBankConfig",
    "MirrorDetector",
    "Verdict",
    "load_detector",
]
