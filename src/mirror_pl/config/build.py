"""From composed configs to objects, of an exact list of classes: nothing else is built, whatever a config names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mirror_pl.benchmarks import LabelTable, Manifest, parse_label_table, parse_manifest, without_settings
from mirror_pl.config.schema import literal
from mirror_pl.errors import ConfigError, MirrorError, nearest

if TYPE_CHECKING:
    import lightning as L

    from mirror_pl.callbacks.loggers import SafeLogger
    from mirror_pl.data import BenchmarkDataModule


_BY_MODULE: Final = {
    "mirror_pl.callbacks": ("ProgressLog", "ResumePoint", "TrainingAdvice"),
    "mirror_pl.data": ("BenchmarkDataModule", "TrainingDataModule"),
    "mirror_pl.images": ("AugmentSpec",),
    "mirror_pl.modules": ("DetectorModule", "MemoryBankModule"),
    "mirror_pl.modules.objectives": ("CosineByEpoch", "WarmUpThenCosine"),
    "lightning.pytorch": ("Trainer",),
    "lightning.pytorch.callbacks": (
        "BatchSizeFinder", "DeviceStatsMonitor", "EMAWeightAveraging", "EarlyStopping", "GradientAccumulationScheduler",
        "LearningRateFinder", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary",
        "RichProgressBar", "SpikeDetection", "StochasticWeightAveraging", "TQDMProgressBar", "ThroughputMonitor", "Timer",
        "WeightAveraging",
    ),
    "lightning.pytorch.loggers": ("CSVLogger", "TensorBoardLogger", "WandbLogger"),
    "lightning.pytorch.plugins.environments": ("SLURMEnvironment",),
    "lightning.pytorch.strategies": ("DDPStrategy", "FSDPStrategy"),
    "torch.optim": ("Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"),
    "torch.optim.lr_scheduler": (
        "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR", "LinearLR", "MultiStepLR",
        "OneCycleLR", "PolynomialLR", "StepLR",
    ),
}  # fmt: skip

TRUSTED: Final = frozenset(f"{module}.{name}" for module, names in _BY_MODULE.items() for name in names)
"""All that a ``_target_`` may be."""


def check_targets(node: Any) -> None:
    """See that every ``_target_`` in a plain config is one of `TRUSTED`.

    Raises:
        ConfigError: Naming the first that is not.
    """
    for target in _targets(node):
        if target not in TRUSTED:
            raise ConfigError(
                f"_target_: {target!r} is not trusted.{nearest(str(target), TRUSTED)} Trusted: {', '.join(sorted(TRUSTED))}"
            )
        module, _, name = target.rpartition(".")
        found = getattr(import_module(module), name)
        package = target.partition(".")[0]
        if not isinstance(found, type) or found.__qualname__ != name or found.__module__.partition(".")[0] != package:
            raise ConfigError(f"_target_: {target} leads to {found!r} here, which is not the class that is trusted")


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def build(node: DictConfig, **kwargs: Any) -> Any:
    """Build the object that a config node describes by its ``_target_``, with plain Python values only.

    Raises:
        ConfigError: If a ``_target_`` in it is not trusted, see `check_targets`, or cannot be built with these values.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True)
    check_targets(plain)
    # Hydra resolves once more: hence `literal`. It must not see kwargs, whose dataclasses it would turn into configs.
    try:
        made = instantiate(literal(plain), _convert_="all", _partial_=True)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, MirrorError):  # says more than Hydra's, which is about its target
            raise cause from error
        where = f"{key}: " if (key := getattr(error, "full_key", "")) else ""
        raise ConfigError(f"{where}{cause or error}") from error
    if plain.get("_partial_"):
        return partial(made, **kwargs)
    try:
        return made(**kwargs)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise ConfigError(str(error)) from error
        raise


def build_manifest(cfg: DictConfig) -> Manifest:
    """Return the benchmark that ``benchmark=`` chose."""
    return manifest_of(cfg.benchmark)


def manifest_of(node: Any) -> Manifest:
    """Return the benchmark that a composed config node describes."""
    values: Any = OmegaConf.to_container(node, resolve=True)
    return parse_manifest(without_settings(values))


def label_table(given: str | Mapping[str, Any] | None, setting: str) -> LabelTable | None:
    """Return the table of labels that a setting names; its file is one relative to the current folder.

    Raises:
        ConfigError: If it is of another form.
    """
    if given is None:
        return None
    table = parse_label_table(given, setting)
    return table if table.file is None else replace(table, file=str(Path(table.file).absolute()))


def build_validation(node: DictConfig, num_workers: int | None, index_cache: str | None) -> dict[str, BenchmarkDataModule]:
    """Build the sets that ``+validation.NAME=FOLDER`` and ``+validation.NAME={benchmark: B, data_root: FOLDER}`` name.

    A folder is read as ``benchmark=folder`` reads it.

    Args:
        node: The setting.
        num_workers: Decoding processes; None takes one per core.
        index_cache: Folder to keep listings in.

    Raises:
        ConfigError: If an entry is of another form.
    """
    from mirror_pl.data import BenchmarkDataModule

    sets = {}
    plain: Any = OmegaConf.to_container(node, resolve=True)
    for name, value in plain.items():
        named = {"benchmark": "folder", "data_root": value} if isinstance(value, str) else value
        complete = isinstance(named, Mapping) and set(named) == {"benchmark", "data_root"}
        if not complete or not all(isinstance(part, str) for part in named.values()):
            forms = "FOLDER, or {benchmark: NAME, data_root: FOLDER}"
            raise ConfigError(f"validation.{name}: expected {forms}, got {value!r}")
        try:
            sets[name] = BenchmarkDataModule(
                named["benchmark"], named["data_root"], num_workers=num_workers, index_cache=index_cache
            )
        except ConfigError as error:
            raise ConfigError(f"validation.{name}: {error}") from error
    return sets


def build_trainer(cfg: DictConfig, *more: L.Callback, leave_out: Collection[str] = ()) -> L.Trainer:
    """Build Lightning's Trainer with the callbacks and loggers that the config names.

    Args:
        cfg: Of the command.
        more: Callbacks besides those.
        leave_out: Names of callbacks that are not for this run.

    Raises:
        ConfigError: If this machine, or Lightning, does not have what the settings ask for.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from mirror_pl.callbacks import WholeFiles

    for name in ("lightning.pytorch", "lightning.fabric"):  # remarks on devices, and advertisements
        logging.getLogger(name).setLevel(logging.WARNING)
    # What is logged has been summed over the processes already.
    warnings.filterwarnings("ignore", message=r".*sync_dist=True.*")
    # Lightning 2.6.6 asks torch 2.13 in a way that newer ones deprecate: github.com/Lightning-AI/pytorch-lightning
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.* is deprecated", category=FutureWarning)
    # The run folder is claimed, and holds its config.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # A training without validation sets has no loader of them; `TrainingAdvice` says how many steps there are.
    warnings.filterwarnings("ignore", message=r"Total length of .* across ranks is zero")
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    # The frozen parts are, and stay.
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
    callbacks = [build(node) for name, node in cfg.callbacks.items() if name not in leave_out]
    loggers = build_loggers(cfg)
    progress_bar = "progress" in cfg.callbacks  # otherwise Lightning would add one of its own
    try:
        trainer: L.Trainer = build(
            cfg.trainer,
            callbacks=[*callbacks, *more],
            plugins=[WholeFiles()],
            logger=loggers or False,
            enable_progress_bar=progress_bar,
            precision=_PRECISIONS.get(str(cfg.trainer.precision), cfg.trainer.precision),
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        settings = ", ".join(f"{key}={cfg.trainer[key]}" for key in ("accelerator", "devices", "strategy", "precision"))
        raise ConfigError(f"trainer: {error} (trainer: {settings})") from error
    if any(word in str(cfg.trainer.strategy) for word in ("spawn", "fork", "notebook")):
        raise ConfigError(f"trainer.strategy={cfg.trainer.strategy}: results stay in the processes it starts; use ddp")
    return trainer


_PRECISIONS: Final = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "64": "64-true"}
"""Lightning's former names, which it takes with a remark on its own files, and what it takes them for."""


def build_loggers(cfg: DictConfig) -> list[SafeLogger]:
    """Build what ``logger=`` chose; nothing is started. A logger that fails later on is no reason for a run to end.

    Raises:
        ConfigError: If a setting is wrong, or a package is not installed.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    images = cfg.logger.get("images", 0)
    if not isinstance(images, int) or images < 0:
        raise ConfigError(f"logger.images must be 0 or more, got {images}")
    loggers = []
    for name, node in cfg.logger.items():
        if not isinstance(node, DictConfig):  # a setting of what is shown, such as logger.images
            continue
        try:
            loggers.append(_build_logger(str(name), node, cfg))
        except ModuleNotFoundError as error:
            # Lightning names two packages that would do, of which one is tested.
            missing = "mirror_pl[tensorboard]" if "tensorboard" in str(error).lower() else error.name or str(error)
            raise ConfigError(f"logger={name}: a package is not installed: pip install '{missing}'") from error
        except (MisconfigurationException, TypeError, ValueError, ConfigError) as error:
            if str(error).startswith(f"logger.{name}"):
                raise
            raise ConfigError(f"logger.{name}: {error}") from error
    return loggers


def _build_logger(name: str, node: DictConfig, cfg: DictConfig) -> SafeLogger:
    from mirror_pl.callbacks.loggers import MODES, SafeLogger, SafeWandbLogger

    if not str(node.get("_target_")).endswith(".WandbLogger"):
        return SafeLogger(build(node), name)
    settings: Any = OmegaConf.to_container(node, resolve=True)
    trains = "phase" in cfg
    mode = "offline" if settings.pop("offline", False) else settings.pop("mode", None)  # the first is Lightning's
    if mode not in (None, *MODES):
        raise ConfigError(f"logger.{name}.mode must be null, {', '.join(MODES[:-1])} or {MODES[-1]}, got {mode}")
    settings["save_dir"] = str(Path(settings["save_dir"]).absolute())  # its helper process may be in another folder
    settings["job_type"] = settings.get("job_type") or ("train" if trains else "eval")
    # A training that is resumed is a run of its own on W&B; the folder holds them together.
    settings["group"] = settings.get("group") or sweep_name() or (Path(cfg.output_dir).name if trains else None)
    settings["tags"] = [str(tag) for tag in settings.get("tags") or () if tag]
    return SafeWandbLogger(lambda chosen: build(OmegaConf.create({**settings, "mode": chosen})), name, mode)


def sweep_name() -> str | None:
    """Return the name of the sweep that this job is part of, which is that of its folder; None outside of a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    given = [value for value in HydraConfig.get().overrides.task if value.startswith("output_dir=")]
    chosen = given[-1].partition("=")[2].strip("'\"") if given else ""
    # One that depends on the job's settings is no folder of the whole sweep.
    return Path(HydraConfig.get().sweep.dir if not chosen or "$" in chosen else chosen).name


def start_loggers(trainer: L.Trainer) -> None:
    """Start what ``logger=`` chose, before anything is scored. What cannot start is left out, with a warning."""
    from mirror_pl.callbacks.loggers import SafeLogger

    if not trainer.is_global_zero:  # with several processes, one of them logs
        return
    for logger in trainer.loggers:
        if isinstance(logger, SafeLogger):
            logger.start()
    trainer.loggers = [logger for logger in trainer.loggers if not getattr(logger, "failed", False)]
