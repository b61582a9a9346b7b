"""The benchmarks that are shipped, by name: their manifests in ``configs/benchmark/``."""

from __future__ import annotations

from typing import Any

import yaml

from mirror_pl.benchmarks.manifest import Manifest, parse_manifest
from mirror_pl.errors import ConfigError, nearest
from mirror_pl.locate import config_dir

OF_AN_EVALUATION = ("data_root", "checkpoint")
"""Defaults of settings that an embedded benchmark brings; no part of what it is."""


def benchmark_names() -> list[str]:
    """Return the names of all shipped benchmarks, which are the options of ``benchmark=``."""
    return sorted(path.stem for path in (config_dir() / "benchmark").glob("*.yaml"))


def benchmark_aliases() -> dict[str, str]:
    """Return which shipped benchmark each alias is of."""
    found = {name: load_manifest(name) for name in benchmark_names()}
    return {alias: name for name, manifest in found.items() for alias in manifest.aliases}


def load_manifest(name: str) -> Manifest:
    """Return the benchmark called `name`.

    Raises:
        ConfigError: If there is none.
    """
    names = benchmark_names()
    if name not in names:
        raise ConfigError(f"benchmark={name}: there is none.{nearest(name, names)} Available: {', '.join(names)}")
    return parse_manifest(without_settings(_values(name)))


def without_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return what of a benchmark's config is its manifest."""
    return {key: value for key, value in values.items() if key not in OF_AN_EVALUATION}


def _values(name: str) -> dict[str, Any]:
    """Read a manifest's file, and those that its defaults list names before it."""
    own: dict[str, Any] = yaml.safe_load((config_dir() / "benchmark" / f"{name}.yaml").read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for base in own.pop("defaults", ()):
        if base != "_self_":
            values = _values(base)
    return _merged(values, own)


def _merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Return `one` with the values of `two` in it, group by group."""
    merged = dict(one)
    for key, value in two.items():
        there = merged.get(key)
        merged[key] = _merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return merged
