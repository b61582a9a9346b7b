"""The shipped benchmarks by name, for those who look at several. Loads no torch."""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import OmegaConf

from mirror_pl.benchmarks import Manifest, parse_manifest
from mirror_pl.config.command import HYDRA_VERSION, register_resolvers, without_running_hydra
from mirror_pl.errors import ConfigError, nearest
from mirror_pl.locate import config_dir


def benchmark_names() -> list[str]:
    """Return the names of all options of ``benchmark=``."""
    return sorted(path.stem for path in (config_dir() / "benchmark").glob("*.yaml"))


def load_manifest(name: str) -> Manifest:
    """Return the benchmark called `name`.

    Raises:
        ConfigError: If there is none.
    """
    if name not in benchmark_names():
        names = benchmark_names()
        raise ConfigError(f"benchmark={name}: there is none.{nearest(name, names)} Available: {', '.join(names)}")
    register_resolvers()
    with without_running_hydra(), hydra.initialize_config_dir(version_base=HYDRA_VERSION, config_dir=str(config_dir())):
        return manifest_from(hydra.compose(overrides=[f"+benchmark={name}"]).benchmark)


def manifest_from(node: Any) -> Manifest:
    """Build the benchmark that a composed config node describes."""
    values: Any = OmegaConf.to_container(node, resolve=True)
    for key in ("data_root", "checkpoint"):  # defaults that an embedded benchmark brings; no part of what it is
        values.pop(key, None)
    return parse_manifest(values)
