"""From composed configs to objects: typed ones for detector and benchmark, ``_target_`` for what is plugged in."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mirror_pl.benchmarks import Manifest
from mirror_pl.config.locate import miniature_dir
from mirror_pl.config.manifests import manifest_from
from mirror_pl.config.settings import BackboneSettings, EvalSettings
from mirror_pl.detectors import BackboneConfig, MirrorDetector, load_detector
from mirror_pl.detectors.backbone import read_backbone_folder
from mirror_pl.detectors.checkpoint import backbone_source
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.errors import ConfigError, name_list
from mirror_pl.files import path_state

if TYPE_CHECKING:
    import lightning as L
    import torch

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
    return manifest_from(cfg.benchmark)


def build_backbone(settings: BackboneSettings) -> BackboneConfig | None:
    """Return the architecture that ``backbone=`` or ``backbone.path=`` chose; None leaves it to the checkpoint."""
    folder = backbone_folder(settings)
    if folder is not None:
        return read_backbone_folder(folder)
    return None if settings.name is None else known_backbone(settings.name)


def backbone_folder(settings: BackboneSettings) -> Path | None:
    """Return the Hugging Face folder that ``backbone.path=`` named."""
    return None if settings.path is None else Path(settings.path)


@dataclass(frozen=True)
class _Kept:
    """A detector, what it was asked for with, and what its tensors were when it was loaded."""

    request: tuple[Any, ...]
    tensors: dict[str, tuple[torch.dtype, torch.Size]]
    detector: MirrorDetector


_kept: _Kept | None = None
"""The detector of the job before. One only: two large ones would not fit into the memory that one was planned for."""


def build_detector(settings: EvalSettings) -> tuple[MirrorDetector, bool]:
    """Load the detector that ``checkpoint``, ``memory_path`` and ``backbone`` name, or hand out that of the job before.

    The jobs of a sweep run one after another in one process. A job gets the detector of the one before if all settings that
    make a detector are the same, its files have not been written to, and the job before left its tensors as they were: a
    precision that rounds the weights, or a strategy that wraps modules, does not.

    Returns:
        The detector, in eval mode, and whether it is that of the job before. Its device is left to the trainer.

    Raises:
        ConfigError: If there is no checkpoint to load, or it is of another variant than was named.
        CheckpointError: As `load_detector`.
    """
    global _kept
    if settings.checkpoint is None:
        weights = f"there are no published weights for backbone={settings.backbone.name}"
        raise ConfigError(
            f"checkpoint: none was given{f', and {weights}' if settings.backbone.name else ''}; give "
            "checkpoint=FILE_OR_FOLDER, or backbone=dinov3_hplus for the published weights"
        )
    kept, _kept = _kept, None
    backbone, folder = build_backbone(settings.backbone), backbone_folder(settings.backbone)
    source = backbone_source(settings.checkpoint, folder)  # with its hash, where the checkpoint holds no backbone weights
    paths = [None if path is None else Path(path).resolve() for path in (settings.checkpoint, settings.memory_path)]
    # Before the load: files that change while they are read are not those that were asked for.
    states = ((path, path and path_state(path)) for path in paths)
    request = (settings.detector, settings.compile, backbone, source, *states)
    if kept is not None and kept.request == request and kept.tensors == _tensors_of(kept.detector):
        _kept = kept
        return kept.detector.requires_grad_(False).eval(), True
    if kept is not None:
        del kept
        gc.collect()  # Lightning's trainer and module hold each other, and with them the detector of the job before
    detector = load_detector(
        settings.checkpoint,
        backbone=backbone,
        backbone_folder=folder,
        memory_path=settings.memory_path,
        merge=settings.detector.merge_lora,
    )
    _check_variant(settings, detector)
    if settings.compile:
        detector.backbone.compile()
    _kept = _Kept(request, _tensors_of(detector), detector)
    return detector, False


def _check_variant(settings: EvalSettings, detector: MirrorDetector) -> None:
    """Hold a checkpoint against the variant that was named; ``detector=mirror`` takes what the checkpoint says it is."""
    asked, found = list(settings.detector.head["inputs"]), list(detector.config.head.inputs)
    if settings.detector.name != "mirror" and asked != found:
        raise ConfigError(
            f"detector={settings.detector.name}: its head looks at {', '.join(asked)}, that of {settings.checkpoint} at "
            f"{', '.join(found)}; leave detector out to evaluate what the checkpoint holds"
        )


def _tensors_of(detector: MirrorDetector) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in detector.state_dict().items()}


def build_trainer(cfg: DictConfig) -> L.Trainer:
    """Build Lightning's Trainer with the callbacks and loggers that the config names.

    Raises:
        ConfigError: If this machine, or Lightning, does not have what the settings ask for.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for name in ("lightning.pytorch", "lightning.fabric"):  # remarks on devices, and advertisements
        logging.getLogger(name).setLevel(logging.WARNING)
    # What is logged has been summed over the processes already.
    warnings.filterwarnings("ignore", message=r".*sync_dist=True.*")
    # Lightning 2.6.6 asks torch 2.13 in a way that newer ones deprecate: github.com/Lightning-AI/pytorch-lightning
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.* is deprecated", category=FutureWarning)
    # The frozen parts are, and stay.
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
    callbacks = [build(node) for node in cfg.callbacks.values()]
    loggers = [build(node) for node in cfg.logger.values()]
    progress_bar = "progress" in cfg.callbacks  # otherwise Lightning would add one of its own
    try:
        trainer: L.Trainer = build(
            cfg.trainer, callbacks=callbacks, logger=loggers or False, enable_progress_bar=progress_bar
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        settings = ", ".join(f"{key}={cfg.trainer[key]}" for key in ("accelerator", "devices", "strategy", "precision"))
        raise ConfigError(f"trainer: {error} (trainer: {settings})") from error
    if getattr(trainer.strategy, "_start_method", "popen") not in (None, "popen"):
        raise ConfigError(f"trainer.strategy={cfg.trainer.strategy}: results stay in the processes it starts; use ddp")
    limit = trainer.limit_test_batches  # 1.0 is all of them, 1 a single one; fast_dev_run sets it too
    if isinstance(limit, int) or limit != 1.0:
        raise ConfigError("trainer: limit_test_batches and fast_dev_run leave images out, and would give a false report")
    return trainer


def start_loggers(trainer: L.Trainer) -> None:
    """Start what ``logger=`` chose, before anything is scored.

    Raises:
        ConfigError: If a logger cannot start, such as Weights & Biases without an API key.
    """
    for logger in trainer.loggers:
        try:
            getattr(logger, "experiment", None)  # made when it is first asked for
        except Exception as error:  # each logger has errors of its own
            raise ConfigError(
                f"logger: {type(logger).__name__} cannot start: {error}. Use logger=none, or, for W&B, set WANDB_API_KEY or "
                "WANDB_MODE=offline in the environment"
            ) from error


def is_miniature(checkpoint: str | None) -> bool:
    """Whether the checkpoint is the one shipped with the package, which is no detector for the real world."""
    return checkpoint is not None and Path(checkpoint).resolve().is_relative_to(miniature_dir().resolve())


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
