"""A detector written to a file as training writes it, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirror_pl.detectors import Detector
from mirror_pl.detectors.checkpoint import BackboneSource, detector_content
from mirror_pl.detectors.checkpoint.torch_file import save_torch


def save_checkpoint(
    path: Path, detector: Detector, *, backbone: BackboneSource | None, training: dict[str, Any], replace: bool = False
) -> None:
    save_torch(path, detector_content(detector, backbone=backbone, training=training), replace=replace)
