"""From a composed config to a command's settings, converted and checked, before anything is loaded or written."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mirror_pl.config.plain_paths import paths_in
from mirror_pl.config.settings import (
    AppSettings,
    CheckDataSettings,
    ConvertSettings,
    DetectorTrainSettings,
    EvalSettings,
    GallerySettings,
    MemoryTrainSettings,
    MiniatureSettings,
    PredictSettings,
    ReportSettings,
)
from mirror_pl.errors import ConfigError, nearest

AnyTrainSettings: TypeAlias = MemoryTrainSettings | DetectorTrainSettings | MiniatureSettings


def read_train_settings(cfg: DictConfig) -> AnyTrainSettings:
    """Read the settings of ``mirror_pl.train`` for the phase that was chosen; errors as `read_settings`."""
    name = cfg.phase.get("name")
    if name == "memory":
        return read_settings(cfg, MemoryTrainSettings)
    if name in ("detector", "probe"):
        return read_settings(cfg, DetectorTrainSettings)
    if name == "miniature":
        return read_settings(cfg, MiniatureSettings)
    raise ConfigError(f"phase.name must be memory, detector, probe or miniature, got {name}")


Settings = TypeVar(
    "Settings",
    EvalSettings,
    PredictSettings,
    AppSettings,
    ConvertSettings,
    CheckDataSettings,
    ReportSettings,
    GallerySettings,
    MemoryTrainSettings,
    DetectorTrainSettings,
    MiniatureSettings,
)


def read_settings(cfg: DictConfig, cls: type[Settings]) -> Settings:
    """Read the settings of a command from its composed config, converted to their types.

    What reads the config itself (the ``_target_`` nodes) sees the converted values too.

    Raises:
        ConfigError: If a value is missing, of another type, or out of range.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    typed: Any = OmegaConf.structured(cls)
    types = get_type_hints(cls)
    plain_paths: dict[str, list[str]] = {}
    for field in fields(cls):
        value = plain[field.name]
        if value == MISSING:
            raise ConfigError(f"{field.name}: not given; add {field.name}=... to the command")
        if is_dataclass(types[field.name]):  # a group: what else its option holds is read elsewhere
            known: list[str] = [part.name for part in fields(types[field.name])]
            unknown = [] if field.name != "phase" else [key for key in value if key not in (*known, "labels", "batch_size")]
            if unknown:
                raise ConfigError(f"phase.{unknown[0]}: there is no such setting.{nearest(str(unknown[0]), known)}")
            value = {name: value.get(name) for name in known}
        if types[field.name] == list[str] and isinstance(value, str) and (paths := paths_in(value)) is not None:
            plain_paths[field.name] = paths  # whatever is in them, it is no interpolation
            continue
        try:
            typed = OmegaConf.merge(typed, {field.name: value})
        except OmegaConfBaseException as error:
            raise ConfigError(f"{field.name}: {str(error).splitlines()[0]}") from error
        if not isinstance(value, dict):
            cfg[field.name] = typed[field.name]
    settings: Any = OmegaConf.to_object(OmegaConf.merge(typed, {name: [] for name in plain_paths}))
    for name, paths in plain_paths.items():
        setattr(settings, name, paths)
    settings.check()
    return settings
