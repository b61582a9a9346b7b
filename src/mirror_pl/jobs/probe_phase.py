"""The linear probe: a frozen backbone, reals and fakes in, a logistic regression on the CLS token out."""

from __future__ import annotations

from typing import ClassVar

from omegaconf import DictConfig

from mirror_pl.detectors.variants import LINEAR_PROBE, variant_name
from mirror_pl.errors import ConfigError
from mirror_pl.jobs.detector_phase import DetectorPhase


class ProbePhase(DetectorPhase):
    """Learns the head alone, and that is one layer; all else is as in Phase 2."""

    title: ClassVar[str] = "Linear probe"

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        if variant_name(self.head) != LINEAR_PROBE or self.lora is not None:
            raise ConfigError(
                "phase=probe learns detector=linear_probe with phase.lora_rank=null; leave both out, or give phase=detector"
            )
