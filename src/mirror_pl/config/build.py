"""From composed configs to objects: typed ones for detector and benchmark, ``_target_`` for what is plugged in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mirror_pl.benchmarks import Manifest, parse_manifest
from mirror_pl.config.locate import demo_dir
from mirror_pl.detectors import BackboneConfig, MirrorDetector, load_detector
from mirror_pl.detectors.backbone import read_backbone_folder
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.errors import ConfigError, name_list

if TYPE_CHECKING:
    import lightning as L

TRUSTED = ("mirror_pl.", "lightning.pytorch.", "torch.optim.")
"""What a ``_target_`` may begin with. A config found inside a checkpoint is never built."""


def build(node: DictConfig, **kwargs: Any) -> Any:
    """Build the object a config node describes by its ``_target_``, with plain Python values only.

    Raises:
        ConfigError: If a ``_target_`` in it is not among `TRUSTED`.
    """
    plain = OmegaConf.to_container(node, resolve=True)
    for target in _targets(plain):
        if not target.startswith(TRUSTED):
            raise ConfigError(f"_target_: {target} is not trusted; it must begin with {name_list(TRUSTED)}")
    # Partial, so that Hydra does not see the objects in kwargs: it would turn dataclasses into configs.
    return instantiate(plain, _convert_="all", _partial_=True)(**kwargs)


def build_manifest(cfg: DictConfig) -> Manifest:
    """Return the benchmark that ``benchmark=`` chose."""
    values: Any = OmegaConf.to_container(cfg.benchmark, resolve=True)
    values.pop("data_root", None)  # where an embedded benchmark lies; no part of what it is
    return parse_manifest(values)


def build_backbone(cfg: DictConfig) -> BackboneConfig | None:
    """Return the architecture that ``backbone=`` or ``backbone.path=`` chose; None leaves it to the checkpoint."""
    if cfg.backbone.path is not None:
        return read_backbone_folder(Path(cfg.backbone.path))
    return None if cfg.backbone.name is None else known_backbone(cfg.backbone.name)


def build_detector(cfg: DictConfig) -> MirrorDetector:
    """Load the detector that ``checkpoint``, ``memory_path`` and ``backbone`` name.

    Raises:
        ConfigError: If there is no checkpoint to load.
    """
    if cfg.checkpoint is None:
        raise ConfigError(
            f"checkpoint: none was given, and there are no published weights for backbone={cfg.backbone.name}; "
            "give checkpoint=FILE_OR_FOLDER"
        )
    return load_detector(
        cfg.checkpoint,
        backbone=build_backbone(cfg),
        memory_path=cfg.memory_path,
        merge=cfg.detector.merge_lora,
    )


def build_trainer(cfg: DictConfig) -> L.Trainer:
    """Build Lightning's Trainer with the callbacks and loggers that the config names.

    Raises:
        ConfigError: If this machine, or Lightning, does not have what the settings ask for.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its remarks on devices, and its advertisements
    # Lightning 2.6.6 asks torch 2.13 in a way that newer ones deprecate: github.com/Lightning-AI/pytorch-lightning
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.* is deprecated", category=FutureWarning)
    callbacks = [build(node) for node in cfg.callbacks.values()]
    loggers = [build(node) for node in cfg.logger.values()]
    try:
        return build(cfg.trainer, callbacks=callbacks, logger=loggers or False)
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        settings = ", ".join(f"{key}={cfg.trainer[key]}" for key in ("accelerator", "devices", "strategy", "precision"))
        raise ConfigError(f"trainer: {error} (trainer: {settings})") from error


def is_embedded(cfg: DictConfig) -> bool:
    """Whether the checkpoint is the one shipped with the package."""
    return cfg.checkpoint is not None and Path(cfg.checkpoint).is_relative_to(demo_dir())


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
