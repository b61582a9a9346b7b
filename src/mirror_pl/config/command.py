"""What all commands share: composing the config, and turning errors into one screen and an exit code."""

from __future__ import annotations

import functools
import io
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mirror_pl.config.locate import config_dir, miniature_dir
from mirror_pl.errors import (
    EXIT_DEFECT,
    EXIT_INCOMPLETE,
    EXIT_NOT_STARTED,
    BenchmarkAbsentError,
    ConfigError,
    MirrorError,
    nearest,
)

HYDRA_VERSION = "1.3"
"""Behaviour asked of Hydra, whichever version is installed."""

_OWN_CONFIGS = re.compile(r"(--config-dir|-cd|hydra\.searchpath)")
"""What brings configs of the user's own, with settings and options not known here."""

_CHOICE = re.compile(r"^\+?(?P<group>[a-z_]+)=(?P<names>[\w.,-]+)$")


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a command's main function: Hydra composes ``configs/{config_name}.yaml`` with the command line.

    A `MirrorError` becomes a message on standard error and the error's exit code, in a sweep after all jobs have run; other
    errors keep their traceback.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        def run() -> None:
            failures: list[tuple[int, str]] = []

            @functools.wraps(main)
            def run_one(cfg: DictConfig) -> None:
                in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
                job = " ".join(HydraConfig.get().overrides.task)
                try:
                    _fit_into_sweep(cfg)
                    main(cfg)
                except (MirrorError, OmegaConfBaseException) as error:
                    if not in_sweep:
                        raise SystemExit(_report(error)) from error
                    # In a sweep the other jobs go on, and a benchmark that is not there is a failure only on request.
                    if not isinstance(error, BenchmarkAbsentError):
                        failures.append((_report(error), job))
                    else:
                        print(error.note)
                        failures.extend([(EXIT_INCOMPLETE, job)] if cfg.get("require_all") is True else [])
                except Exception:
                    if not in_sweep:
                        raise
                    traceback.print_exc()
                    failures.append((EXIT_DEFECT, job))

            for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            try:
                check_overrides(sys.argv[1:], config_name)
            except MirrorError as error:
                raise SystemExit(_report(error)) from error
            register_resolvers()
            hydra.main(version_base=HYDRA_VERSION, config_path=str(config_dir()), config_name=config_name)(run_one)()
            if failures:
                print(f"error: {len(failures)} of the sweep's jobs failed or had no data:", file=sys.stderr)
                for code, job in failures:
                    print(f"  exit code {code}: {job}", file=sys.stderr)
                raise SystemExit(max(code for code, _ in failures))

        return run

    return decorate


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a command's config without running it, as the command line would with `overrides`; also inside a command."""
    check_overrides(overrides, config_name)
    register_resolvers()
    with without_running_hydra(), hydra.initialize_config_dir(version_base=HYDRA_VERSION, config_dir=str(config_dir())):
        return hydra.compose(config_name=config_name, overrides=list(overrides))


@contextmanager
def without_running_hydra() -> Iterator[None]:
    """Let Hydra compose further configs while one of its own is running, which it refuses otherwise."""
    instance = GlobalHydra.instance()
    running, instance.hydra = instance.hydra, None
    try:
        yield
    finally:
        instance.hydra = running


def check_overrides(overrides: Sequence[str], config_name: str) -> None:
    """Refuse what Hydra would refuse too, or take for something else, in words that name what was meant.

    Raises:
        ConfigError: For a setting that does not exist, a value that needs quotes, or an unknown option of a group.
    """
    if any(_OWN_CONFIGS.match(override) for override in overrides):
        return
    defaults = yaml.safe_load((config_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups = [str(next(iter(entry))).split()[-1] for entry in defaults["defaults"] if isinstance(entry, dict)]
    known = sorted({*defaults, *groups, "hydra"} - {"defaults"})
    parser = OverridesParser.create()
    for override in overrides:
        key, equals, value = override.partition("=")
        if override.startswith("-") or not equals:
            continue
        name = re.split(r"[./@]", key.lstrip("+~"))[0]
        if name not in known:
            raise ConfigError(f"{name}: there is no such setting.{nearest(name, known)} Known: {', '.join(known)}")
        try:
            parser.parse_override(override)
        except HydraException as error:
            raise ConfigError(
                f"{key}: the value {value} has characters that need quotes of their own; write \"{key}='{value}'\""
            ) from error
    check_choices(overrides)


def check_choices(overrides: Sequence[str]) -> None:
    """Refuse an unknown option of a config group, such as a misspelt benchmark, naming the nearest one.

    Hydra lists the options too, without the nearest, and below a traceback when composing in a sweep. Values with other
    characters than names have, such as globs, and options in folders of the user's own are left to Hydra.

    Raises:
        ConfigError: With all options.
    """
    for override in overrides:
        match = _CHOICE.match(override)
        if match is None or not (config_dir() / match["group"]).is_dir():
            continue
        options = sorted(path.stem for path in (config_dir() / match["group"]).glob("*.yaml"))
        for name in match["names"].split(","):
            if name not in options and name != "null":
                raise ConfigError(
                    f"{match['group']}={name}: there is no such {match['group']}.{nearest(name, options)}\n"
                    f"Available: {', '.join(options)}"
                )


def _fit_into_sweep(cfg: DictConfig) -> None:
    """Give a sweep's job a folder of its own as `output_dir`, and refuse several processes a job.

    Lightning starts the further processes of a job with the same command line, so that each would run the whole sweep.

    Raises:
        ConfigError: With what to do instead.
    """
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN or "output_dir" not in cfg:
        return
    devices = cfg.trainer.devices
    if (len(devices) if isinstance(devices, ListConfig) else devices) not in (1, "1"):
        raise ConfigError(
            f"trainer.devices={devices} in a sweep: each of its processes would run the whole sweep. Use "
            "trainer.devices=1, or a call for each job: for b in genimage chameleon; do python -m mirror_pl.eval "
            f"benchmark=$b trainer.devices={devices}; done"
        )
    chosen = any(override.startswith("output_dir=") for override in hydra_cfg.overrides.task)
    with open_dict(cfg):
        cfg.output_dir = f"{cfg.output_dir}/{hydra_cfg.job.num}" if chosen else hydra_cfg.runtime.output_dir


def register_resolvers() -> None:
    """Make known what configs may ask for as ``${miniature:...}``: files shipped with the package."""
    OmegaConf.register_new_resolver("miniature", lambda name: str(miniature_dir() / name), replace=True)


def _report(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code if isinstance(error, MirrorError) else EXIT_NOT_STARTED
