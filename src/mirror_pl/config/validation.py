"""Validation sets from the config: folders of reals and fakes by name, or benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mirror_pl.data import BenchmarkDataModule
from mirror_pl.errors import ConfigError


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
