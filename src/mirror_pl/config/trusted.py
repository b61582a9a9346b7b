"""What a config may have built: an exact list of classes. Everything else is refused before it is even imported.

A dotted name says little by its beginning: ``torch.optim.optimizer.torch.utils.collect_env.run`` runs a shell. So a name
must be one of the list as a whole, and lead to a class of that name, defined in the package that the name begins with.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from mirror_pl.errors import ConfigError, nearest

_BY_MODULE: Final = {
    "mirror_pl.callbacks": ("ProgressLog", "ResumePoint"),
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
