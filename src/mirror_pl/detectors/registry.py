"""All detectors by name, ours and those of other packages, and how any of them is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, overload

import torch

from mirror_pl.detectors.checkpoint import calibration_for, read_checkpoint
from mirror_pl.detectors.checkpoint.read import RawCheckpoint
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import CheckpointError, ConfigError, nearest, shown
from mirror_pl.hub import local_path
from mirror_pl.locate import registered_detectors


def detector_class(name: str, trusted: Collection[str] = ()) -> type[Detector]:
    """Return a detector's class.

    Args:
        name: A registered one, or a class as ``package.module.Class``.
        trusted: Packages that a class which is not registered may be imported from; importing one runs its code.

    Raises:
        ConfigError: If there is none, its package is not trusted, or it is no `Detector`.
    """
    known = registered_detectors()
    if name in known:
        found, value = _imported(name, known[name].value), known[name].value
    elif "." not in name:
        raise ConfigError(
            f"unknown detector {name!r}.{nearest(name, known)} Known: {', '.join(sorted(known))}; or give a class: in "
            "Python itself, on the command line as detector._target_=package.module.Class trust=package"
        )
    else:
        package = name.partition(".")[0]
        if package not in (*trusted, "mirror_pl"):
            raise ConfigError(
                f"detector._target_={name}: importing it runs the code of the package {package}; if you trust that, give "
                f"trust={package}; in Python, give load_detector the class itself"
            )
        module, _, attribute = name.rpartition(".")
        found, value = _imported(name, f"{module}:{attribute}"), name
    if not (isinstance(found, type) and issubclass(found, Detector)):
        raise ConfigError(f"detector {name}: {value} is no subclass of mirror_pl.detectors.Detector, but {found!r}")
    return found


def _imported(name: str, value: str) -> Any:
    module, _, attribute = value.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"detector {name}: {value} cannot be imported: {error}") from error


def settings_of(kind: type[Detector]) -> Mapping[str, inspect.Parameter]:
    """Return the settings that a detector's `load` takes, by name, besides checkpoint, device and dtype."""
    parameters = inspect.signature(kind.load).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {name: each for name, each in parameters.items() if each.kind not in several}
    return {name: each for name, each in named.items() if name not in ("checkpoint", "device", "dtype")}


def needs_backbone(kind: type[Detector]) -> bool:
    """Whether a detector's published file does not hold its backbone, or does not say what it is."""
    setting = settings_of(kind).get("backbone_folder")
    return setting is not None and setting.default is inspect.Parameter.empty


@overload
def load_detector(
    checkpoint: str | Path,
    *,
    detector: Literal["mirror"] = ...,
    backbone: BackboneConfig | str | None = ...,
    backbone_folder: str | Path | None = ...,
    memory_path: str | Path | None = ...,
    merge: bool = ...,
    calibration: str | Path | None = ...,
    abstain: float | None = ...,
    device: torch.device | str = ...,
    dtype: torch.dtype = ...,
) -> MirrorDetector: ...
@overload
def load_detector(
    checkpoint: str | Path,
    *,
    detector: str | type[Detector],
    calibration: str | Path | None = ...,
    abstain: float | None = ...,
    device: torch.device | str = ...,
    dtype: torch.dtype = ...,
    **settings: Any,
) -> Detector: ...


def load_detector(
    checkpoint: str | Path,
    *,
    detector: str | type[Detector] = "mirror",
    calibration: str | Path | None = None,
    abstain: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Detector:
    """Load a detector from its file, in eval mode.

    Args:
        checkpoint: What the class's `load` takes: its published file or folder; or a file of our training, which holds all
            of it. "miniature" is the small MIRROR that is shipped with the package, to try things out. Here and wherever
            else a file is named, an id on the Hugging Face Hub will do, see `hub.HubId`.
        detector: Its name, or its class.
        calibration: A file of ``mirror_pl.calibrate``, fitted on this detector: `predict` returns calibrated scores.
        abstain: With `calibration`: error rate in each class at which `predict` may also say unsure; None never does.
        device: Where its tensors are put.
        dtype: Of the backbone's weights.
        settings: What else the class's `load` takes; of MIRROR's, see `MirrorDetector.load`.

    Raises:
        ConfigError: If there is no such detector, it has no such setting or misses one; or the calibration is another
            detector's.
        CheckpointError: If a file is missing, damaged, unsafe or of another kind, or any tensor does not fit.
    """
    checkpoint, calibration, settings = _local(checkpoint, calibration, settings)
    kind = detector if isinstance(detector, type) else detector_class(detector)
    name, known = detector if isinstance(detector, str) else kind.__name__, settings_of(kind)
    merge = settings.get("merge", True)
    if "merge" not in known:  # of a file of our training it is asked, whatever the published file has
        settings.pop("merge", None)
    for setting in settings:
        if setting not in known:
            raise ConfigError(
                f"{setting}: detector={name} has no such setting.{nearest(setting, known)} It has: "
                f"{', '.join(known) or 'none'}"
            )
    own = trained_file(Path(checkpoint))
    if own is not None and (own_title(own) or MirrorDetector.title) != kind.title:
        title = own_title(own)
        there = "mirror" if title is None else kind_named(title)
        remedy = f"give detector={there}" if there else f"install the package that registers {shown(title)}"
        raise CheckpointError(f"checkpoint: {own.path} holds another detector; {remedy}")
    if own is not None and own_title(own) is not None:
        loaded = kind.rebuilt(own, merge=merge, device=device, dtype=dtype)
    else:
        if needs_backbone(kind) and settings.get("backbone_folder") is None:
            raise ConfigError(f"backbone_folder: detector={name} wants one. Expected {kind.files}")
        loaded = kind.load(checkpoint, device=device, dtype=dtype, **settings)
    loaded.calibration = calibration_for(loaded.name, checkpoint, calibration, abstain)
    return loaded


def _local(
    checkpoint: str | Path, calibration: str | Path | None, settings: Mapping[str, Any]
) -> tuple[str | Path, str | Path | None, dict[str, Any]]:
    """Return these with ids on the Hugging Face Hub resolved to paths."""
    given = {"checkpoint": checkpoint, "calibration": calibration, **settings}
    for name in ("checkpoint", "calibration", "backbone_folder", "memory_path"):
        if isinstance(given.get(name), str):
            given[name] = local_path(given[name], name)
    return given.pop("checkpoint"), given.pop("calibration"), given


def trained_file(path: Path) -> RawCheckpoint | None:
    """Return a file that our training wrote; None for any other."""
    if not path.is_file() or path.suffix == ".safetensors":
        return None
    try:
        raw = read_checkpoint(path)
    except CheckpointError:  # perhaps a format of its own, which its own `load` knows
        return None
    return None if raw.config is None else raw


def own_title(raw: RawCheckpoint) -> str | None:
    """Return the title of the detector that a file of our training holds; None for MIRROR, and for files of others."""
    title = raw.config.get("name") if isinstance(raw.config, Mapping) else None
    return title if isinstance(title, str) else None


def kind_of(raw: RawCheckpoint) -> str | None:
    """Return the registered name of the detector that a file of our training holds; None as `own_title`."""
    title = own_title(raw)
    return kind_named(title) if title else None


def kind_named(title: str) -> str | None:
    """Return the registered name of the detector of a title; None where none has it."""
    for name in registered_detectors():
        with suppress(ConfigError):  # of another package, and not to be imported
            if detector_class(name).title == title:
                return name
    return None
