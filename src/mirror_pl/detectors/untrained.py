"""A detector to be trained: a backbone as it is, and everything else with fresh weights."""

from __future__ import annotations

import torch

from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.config import DetectorConfig
from mirror_pl.detectors.head import DualBranchHead
from mirror_pl.detectors.memory_bank import MemoryBank
from mirror_pl.detectors.mirror import MirrorDetector, Normalise
from mirror_pl.errors import ConfigError


def untrained_detector(config: DetectorConfig, backbone: Backbone, seed: int) -> MirrorDetector:
    """Build a detector around `backbone`, without LoRA; bank and head are drawn from `seed`.

    Args:
        config: ``lora`` must be None.
        backbone: Of ``config.backbone``; held, not copied.
        seed: The same gives the same weights on one machine.

    Raises:
        ConfigError: If config and backbone disagree.
    """
    if config.lora is not None:
        raise ConfigError("untrained_detector: expected a config without LoRA")
    if config.backbone != backbone.config:
        raise ConfigError(f"untrained_detector: the backbone is {backbone.config}, the config says {config.backbone}")
    with torch.device("meta"):  # its backbone would take long to draw, and is not kept
        detector = MirrorDetector(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector.memory_bank = MemoryBank(config.backbone.width, config.memory_bank)
        detector.head = DualBranchHead(config.backbone.width, config.head)
    detector.normalise = Normalise(config.preprocess.mean, config.preprocess.std)
    detector.backbone = backbone
    return detector
