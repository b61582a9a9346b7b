"""Validation sets from the config: folders of reals and fakes by name, or benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mirror_pl.config.manifests import load_manifest
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule


def build_validation(node: DictConfig, num_workers: int | None, index_cache: str | None) -> dict[str, BenchmarkDataModule]:
    """Build the sets that ``+validation.NAME=FOLDER`` and ``+validation.NAME={benchmark: B, data_root: FOLDER}`` name.

    A folder is read as ``benchmark=folder`` reads it.

    Args:
        node: The setting.
        num_workers: Decoding processes; None takes one a core.
        index_cache: Folder to keep listings in.

    Raises:
        ConfigError: If an entry is of another form.
        DataError: If nothing is there, or a subset that is there has images of one class only.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True)
    return {name: _build(f"validation.{name}", value, num_workers, index_cache) for name, value in plain.items()}


def _build(key: str, value: Any, num_workers: int | None, index_cache: str | None) -> BenchmarkDataModule:
    if isinstance(value, str):
        value = {"benchmark": "folder", "data_root": value}
    if not isinstance(value, Mapping) or set(value) != {"benchmark", "data_root"}:
        raise ConfigError(f"{key}: expected FOLDER, or {{benchmark: NAME, data_root: FOLDER}}, got {value!r}")
    data = BenchmarkDataModule(
        load_manifest(value["benchmark"]), value["data_root"], num_workers=num_workers, index_cache=index_cache
    )
    index, members = data.index, data.index.members()
    for subset, member in zip(index.subsets, members, strict=True):
        labels = index.labels[member[index.group_ids]]
        if len(np.unique(labels)) < 2:
            raise DataError(
                f"{key}: subset {subset} in {index.data_root} has {len(labels)} images, all of one class; balanced accuracy "
                "needs both"
            )
    return data
