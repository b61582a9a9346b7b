"""Sweeps: one job after the other, or each by itself; where a job's results go, and what became of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mirror_pl.config.schema import FREE_SETTINGS
from mirror_pl.errors import ConfigError

DATA_SETTINGS = ("benchmark", "data_root", "reals", "per_class", "compat")
"""Settings that the detector does not depend on."""


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job; a launcher may bring it from another process.

    Attributes:
        job: Its overrides.
        code: Exit code that it would have ended with by itself.
    """

    job: str
    code: int


_outcomes: list[JobOutcome] = []
"""Of the last sweep of this process."""


def data_last(overrides: Sequence[str]) -> list[str]:
    """Return the overrides in an order in which settings of the data vary fastest; else as they were.

    Hydra varies the last one fastest. Each detector is then loaded once, and not once a benchmark.
    """
    return sorted(overrides, key=lambda override: setting_of(override) in DATA_SETTINGS)


def without_folder(override: str) -> str:
    """Return ``benchmark=glob(...)`` so that it stands for benchmarks alone, and other overrides as they are.

    ``benchmark=folder`` reads all of data_root, whatever it holds: with the others of a glob, all their images once more.
    """
    if not re.match(r"benchmark=glob\(", override):
        return override
    glob = OverridesParser.create().parse_override(override).value()
    if not isinstance(glob, Glob) or "folder" in glob.include:
        return override
    return f"benchmark=glob([{','.join(glob.include)}],exclude=[{','.join([*glob.exclude, 'folder'])}])"


def setting_of(override: str) -> str:
    """Return the top-level setting or group that an override is about."""
    return re.split(r"[./@=]", override.lstrip("+~"))[0]


def keep_outcomes(outcomes: Iterable[Any]) -> None:
    """Keep what became of a sweep's jobs, for `failures`; results of other kinds are passed over."""
    _outcomes[:] = [outcome for outcome in outcomes if isinstance(outcome, JobOutcome)]


def failures() -> list[JobOutcome]:
    """Return the jobs of this process's sweep that did not do all that was asked."""
    return [outcome for outcome in _outcomes if outcome.code]


def in_sweep() -> bool:
    """Whether the job that is running is one of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def refuse_sweep_a_process() -> None:
    """Refuse to begin a sweep in each of several processes that something else has started.

    Raises:
        ConfigError: With what to do instead.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdigit() and int(processes) > 1:
        raise ConfigError(
            f"-m under torchrun: each of its {processes} processes would run the whole sweep. Start torchrun once a job: "
            "for b in genimage chameleon; do torchrun --nproc-per-node=N -m mirror_pl.eval benchmark=$b "
            "trainer.devices=N trainer.strategy=ddp; done"
        )


def fit_into_sweep(cfg: DictConfig) -> None:
    """Give a sweep's job a folder of its own as `output_dir`.

    An evaluation's folder is named after its settings, so that it is found when the sweep is called again: there it goes on
    with what is missing.
    """
    if "output_dir" not in cfg or "trainer" not in cfg:
        return
    hydra_cfg = HydraConfig.get()
    chosen = any(setting_of(override) == "output_dir" for override in hydra_cfg.overrides.task)
    parent = Path(cfg.output_dir if chosen else hydra_cfg.sweep.dir)
    with open_dict(cfg):
        if "resume" in cfg and "benchmark" in cfg:
            cfg.output_dir, cfg.resume = str(parent / job_name(cfg)), True
        else:
            cfg.output_dir = str(parent / str(hydra_cfg.job.num))


def job_name(cfg: DictConfig) -> str:
    """Return a name for an evaluation that is equal for equal settings: benchmark, backbone or checkpoint, and a hash."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    for name in FREE_SETTINGS:
        *groups, last = name.split(".")
        node = settings
        for group in groups:
            node = node.get(group, {})
        node.pop(last, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    model = cfg.backbone.name or (Path(cfg.checkpoint).stem if cfg.checkpoint else "none")
    return "-".join(re.sub(r"[^\w.-]", "_", part) for part in (cfg.benchmark.name, model, digest[:8]))
