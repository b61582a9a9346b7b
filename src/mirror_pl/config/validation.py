"""Validation sets from the config: folders of reals and fakes by name, or benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mirror_pl.config.manifests import load_manifest
from mirror_pl.errors import ConfigError, DataError, name_list
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.validation import check_set


def build_validation(node: DictConfig, num_workers: int | None, index_cache: str | None) -> dict[str, BenchmarkDataModule]:
    """Build the sets that ``+validation.NAME=FOLDER`` and ``+validation.NAME={benchmark: B, data_root: FOLDER}`` name.

    A folder is read as ``benchmark=folder`` reads it.

    Args:
        node: The setting.
        num_workers: Decoding processes; None takes one a core.
        index_cache: Folder to keep listings in.

    Raises:
        ConfigError: If an entry is of another form.
        DataError: If a subset is not there, or has no readable image of a class.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True)
    return {name: _build(name, value, num_workers, index_cache) for name, value in plain.items()}


def _build(name: str, value: Any, num_workers: int | None, index_cache: str | None) -> BenchmarkDataModule:
    if isinstance(value, str):
        value = {"benchmark": "folder", "data_root": value}
    named = isinstance(value, Mapping) and set(value) == {"benchmark", "data_root"}
    if not named or not all(isinstance(part, str) for part in value.values()):
        raise ConfigError(f"validation.{name}: expected FOLDER, or {{benchmark: NAME, data_root: FOLDER}}, got {value!r}")
    try:
        manifest = load_manifest(value["benchmark"])
        data = BenchmarkDataModule(manifest, value["data_root"], num_workers=num_workers, index_cache=index_cache)
        missing = data.index.missing
    except ConfigError as error:
        raise ConfigError(f"validation.{name}: {error}") from error
    except DataError as error:
        raise DataError(f"validation.{name}: {error}") from error
    if missing:
        raise DataError(
            f"validation.{name}: subsets not on disk: {name_list(missing)}; the best detector would be that of the others"
        )
    check_set(name, data)
    return data
