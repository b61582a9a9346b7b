"""The published detectors other than MIRROR, by name: what each is loaded with, and from what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from mirror_pl.detectors.bfree import BfreeDetector, load_bfree
from mirror_pl.detectors.dda import DdaDetector, load_dda
from mirror_pl.detectors.linear_detector import LinearDetector, VitSize
from mirror_pl.detectors.univfd import UnivfdDetector, load_univfd
from mirror_pl.errors import ConfigError, nearest


@dataclass(frozen=True)
class Baseline:
    """A detector to compare with.

    Attributes:
        detector: Its class, which says title, licence and crops.
        load: Called with the checkpoint; and, by name, with `device` and `dtype`, `clip` if `needs_backbone`, `merge` if
            `has_adapters`, and `size` where another one than the published is asked for.
        files: What the checkpoint is, in one line.
        needs_backbone: Whether the backbone's weights are in a folder of their own.
        has_adapters: Whether there are any to merge.
    """

    detector: type[LinearDetector]
    load: Callable[..., LinearDetector]
    files: str
    needs_backbone: bool = False
    has_adapters: bool = False


BASELINES: Final[dict[str, Baseline]] = {
    "univfd": Baseline(
        UnivfdDetector, load_univfd, "fc_weights.pth, and the folder of openai/clip-vit-large-patch14", needs_backbone=True
    ),
    "dda": Baseline(DdaDetector, load_dda, "DDA_ckpt.pth", has_adapters=True),
    "bfree": Baseline(BfreeDetector, load_bfree, "the folder BFREE_dino2reg4, of config.yaml and model_epoch_best.pth"),
}


def load_baseline(
    name: str,
    checkpoint: str | Path,
    *,
    backbone_folder: str | Path | None = None,
    merge: bool = True,
    size: VitSize | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LinearDetector:
    """Load a published detector by its name, in eval mode.

    Args:
        name: One of `BASELINES`.
        checkpoint: Its published file or folder.
        backbone_folder: Where the backbone's weights are, for a detector whose file does not hold them.
        merge: Fold adapters into the weights, where there are any.
        size: Of its backbone, where it is not the published one; UnivFD's folder says it itself.
        device: Where its tensors are put.
        dtype: Of the backbone's weights.

    Raises:
        ConfigError: If there is no such detector, or `backbone_folder` is missing or not asked for.
        CheckpointError: If a file is missing, damaged, unsafe or of another kind, or any tensor does not fit.
    """
    if name not in BASELINES:
        raise ConfigError(f"unknown detector {name!r}.{nearest(name, BASELINES)} Known: {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    if (backbone_folder is not None) != baseline.needs_backbone:
        wanted = "is missing" if baseline.needs_backbone else "is not asked for: the checkpoint holds the backbone"
        raise ConfigError(f"{name}: the backbone's folder {wanted}. Expected {baseline.files}")
    backbone = {"clip": backbone_folder} if baseline.needs_backbone else {}
    adapters = {"merge": merge} if baseline.has_adapters else {}
    sizes = {} if size is None else {"size": size}
    return baseline.load(checkpoint, device=device, dtype=dtype, **backbone, **adapters, **sizes)
