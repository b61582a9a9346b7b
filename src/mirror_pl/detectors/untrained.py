"""A detector to be trained: a backbone as it is, and everything else with fresh weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.detector_config import DetectorConfig
from mirror_pl.detectors.head import DualBranchHead
from mirror_pl.detectors.lora import add_lora
from mirror_pl.detectors.memory_bank import MemoryBank
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.detectors.normalise import Normalise
from mirror_pl.errors import ConfigError


def untrained_detector(
    config: DetectorConfig, backbone: Backbone, seed: int, bank: MemoryBank | None = None
) -> MirrorDetector:
    """Build a detector around `backbone`; what it is not given is drawn from `seed`: bank, head, and LoRA's A (B is 0).

    Args:
        config: Of the detector.
        backbone: Of ``config.backbone``, without LoRA; held, not copied. Adapters are put into it.
        seed: The same gives the same weights on one machine.
        bank: Of ``config.memory_bank``; held, not copied.

    Raises:
        ConfigError: If the config does not agree with backbone or bank.
    """
    if config.backbone != backbone.config:
        raise ConfigError(f"untrained_detector: the backbone is {backbone.config}, the config says {config.backbone}")
    if bank is not None and (bank.config, bank.memory.shape[1]) != (config.memory_bank, config.backbone.width):
        raise ConfigError(
            f"untrained_detector: the bank is {bank.config} of width {bank.memory.shape[1]}, the config says "
            f"{config.memory_bank} of width {config.backbone.width}"
        )
    with torch.device("meta"):  # its backbone would take long to draw, and is not kept
        detector = MirrorDetector(replace(config, lora=None))
    detector.config = config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.memory_bank is not None:
            detector.memory_bank = MemoryBank(config.backbone.width, config.memory_bank) if bank is None else bank
        detector.head = DualBranchHead(config.backbone.width, config.head)
        if config.lora is not None:
            add_lora(backbone, config.lora)
    detector.normalise = Normalise(config.preprocess.mean, config.preprocess.std)
    detector.backbone = backbone
    return detector
