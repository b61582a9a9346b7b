"""What all commands share: composing the config, and turning errors into one screen and an exit code."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mirror_pl.config.plain_paths import TAKE_A_VALUE, paths_token, take_paths
from mirror_pl.config.sweep import JobOutcome, failures, fit_into_sweep, in_sweep, refuse_sweep_a_process, setting_of
from mirror_pl.errors import (
    EXIT_DEFECT,
    EXIT_INCOMPLETE,
    EXIT_NOT_STARTED,
    BenchmarkAbsentError,
    ConfigError,
    MirrorError,
    nearest,
)
from mirror_pl.locate import config_dir, miniature_dir, registered_detectors
from mirror_pl.stopping import go_on_with, raise_if_stopped
from mirror_pl.texts import printable

HYDRA_VERSION = "1.3"
"""Behaviour asked of Hydra, whichever version is installed."""

_OWN_CONFIGS = re.compile(r"(--config-dir|-cd|hydra\.searchpath)")
"""What brings configs of the user's own, with settings and options not known here."""

_CHOICE = re.compile(r"^\+?(?P<group>[a-z_]+)=(?P<names>[\w.,-]+)$")


def run_command(config_name: str, main: Callable[[DictConfig], None], *, inputs: str | None = None) -> None:
    """Run a command: Hydra composes ``configs/{config_name}.yaml`` with the command line, and `main` does what it says.

    With `inputs`, a setting that its config leaves to ``${inputs:}``, plain paths before the first ``key=value`` are its
    value, see `take_paths`.

    A `MirrorError` becomes a message on standard error and the error's exit code, in a sweep after all jobs have run; other
    errors keep their traceback.
    """

    def run_one(cfg: DictConfig) -> JobOutcome:
        job, code = "", 0
        try:
            job = " ".join(HydraConfig.get().overrides.task)
            if in_sweep():
                go_on_with()  # the same command finds what is done
                fit_into_sweep(cfg)
            else:
                _check_resumed(cfg)
            main(cfg)
        except (MirrorError, OmegaConfBaseException) as error:
            if not in_sweep():
                raise SystemExit(_report(error)) from error
            # In a sweep the other jobs go on, and a benchmark that is not there is a failure only on request.
            if not isinstance(error, BenchmarkAbsentError):
                code = _report(error)
            else:
                print(printable(error.note))
                code = EXIT_INCOMPLETE if cfg.get("require_all") is True else 0
        except Exception:
            if not in_sweep():
                raise
            traceback.print_exc()
            code = EXIT_DEFECT
        return JobOutcome(job, code)

    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if inputs is not None:
            known = _settings_of(config_name)
            sys.argv[1:] = take_paths(sys.argv[1:], inputs, lambda key: setting_of(key) in known)
        if not any(argument.startswith(("-sc", "--shell-completion")) for argument in sys.argv[1:]):
            sys.argv[1:] = without_aliases(sys.argv[1:])
            check_overrides(sys.argv[1:], config_name)
        if {"-m", "--multirun"} & {*sys.argv[1:]}:
            refuse_sweep_a_process()
    except MirrorError as error:
        raise SystemExit(_report(error)) from error
    register_with_hydra()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or it would print errors in words of its own, and exit
    try:
        hydra.main(version_base=HYDRA_VERSION, config_path=str(config_dir()), config_name=config_name)(run_one)()
    except HydraException as error:
        raise_if_stopped(error)  # while a config was composed
        raise SystemExit(_report(_in_our_words(error, config_name, sys.argv[1:]))) from error
    if failures():
        print(f"error: {len(failures())} of the sweep's jobs failed or had no data:", file=sys.stderr)
        for failure in failures():
            print(f"  exit code {failure.code}: {printable(failure.job)}", file=sys.stderr)
        raise SystemExit(max(failure.code for failure in failures()))


def _check_resumed(cfg: DictConfig) -> None:
    """Refuse to go on with a run that no setting names: the folder would be a new one, and so would the run.

    Raises:
        ConfigError: With the newest run that was stopped, where there is one.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    if cfg.get("resume") is not True or "${now:" not in str(plain.get("output_dir", "")):
        return
    begun = [path for path in Path(cfg.output_dir).parent.glob("*/config.yaml") if not path.with_name("run.json").exists()]
    newest = max(begun, key=lambda path: path.stat().st_mtime, default=None)
    hint = "output_dir=FOLDER" if newest is None else f"output_dir={newest.parent}, the newest that was stopped"
    raise ConfigError(f"resume=true: which run? Give its folder too: {hint}")


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a command's config without running it, as the command line would with `overrides`; also inside a command."""
    overrides = without_aliases(overrides)
    check_overrides(overrides, config_name)
    register_with_hydra()
    try:
        return _composed(config_name, overrides)
    except HydraException as error:
        raise _in_our_words(error, config_name, overrides) from error


def _composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    with without_running_hydra(), hydra.initialize_config_dir(version_base=HYDRA_VERSION, config_dir=str(config_dir())):
        return hydra.compose(config_name=config_name, overrides=list(overrides))


def _in_our_words(error: Exception, config_name: str, overrides: Sequence[str]) -> ConfigError:
    """Say what Hydra found wrong with the command line; of an unknown key inside a group, which there are."""
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    key = re.match(r"Could not override '([\w.]+)'", said)
    choices = [override for override in overrides if _CHOICE.match(override)]
    if key is None:
        return ConfigError(said)
    with suppress(HydraException, OmegaConfBaseException):
        group: Any = _composed(config_name, choices)
        for name in key[1].split("."):
            if isinstance(group, DictConfig) and name not in group:
                known = [str(known) for known in group]
                return ConfigError(f"{key[1]}: there is no such setting.{nearest(name, known)} Known: {', '.join(known)}")
            group = group[name]
    return ConfigError(f"{key[1]}: there is no such setting; +{key[1]}=... would add it, where something asks for it")


def named_settings() -> set[str]:
    """Return the settings and groups that the command line of the running command names, at their top level."""
    return {setting_of(override) for override in HydraConfig.get().overrides.task}


def same_command() -> list[str] | None:
    """Return the command line that runs this command once more, in a sweep its job; None where there is no command."""
    if not HydraConfig.initialized():
        return None
    job = HydraConfig.get()
    folders = [source.path for source in job.runtime.config_sources if source.provider == "command-line"]
    searched = [override for override in job.overrides.hydra if override.startswith("hydra.searchpath")]
    own = [part for folder in folders for part in ("--config-dir", folder)]
    return [sys.executable, "-m", f"mirror_pl.{job.job.config_name}", *own, *job.overrides.task, *searched]


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
    known = _settings_of(config_name)
    parser = OverridesParser.create()
    for before, override in pairwise(["", *overrides]):
        key, equals, value = override.partition("=")
        is_word = not (equals or override.startswith(("-", "~")) or before in TAKE_A_VALUE)
        if not key or is_word or (key.lstrip("-") in known and override.startswith("-")):
            raise ConfigError(
                f"{override}: a setting is written as key=value, without dashes and spaces, such as benchmark=genimage"
            )
        if override.startswith("-") or not equals:
            continue
        name = setting_of(key)
        if name not in known:
            raise ConfigError(f"{name}: there is no such setting.{nearest(name, known)} Known: {', '.join(known)}")
        try:
            parser.parse_override(override)
        except HydraException as error:
            raise ConfigError(
                f"{key}: the value {value} has characters that need quotes of their own; write \"{key}='{value}'\""
            ) from error
    check_choices(overrides)
    launchers = [override for override in overrides if override.startswith("hydra/launcher=submitit")]
    if launchers and find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise ConfigError(f"{launchers[0]}: needs hydra-submitit-launcher; pip install 'mirror_pl[slurm]'")


def _settings_of(config_name: str) -> list[str]:
    """Return the settings and groups that a command has, at their top level."""
    defaults = yaml.safe_load((config_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups = [str(next(iter(entry))).split()[-1] for entry in defaults["defaults"] if isinstance(entry, dict)]
    others = [entry for entry in defaults["defaults"] if isinstance(entry, str) and entry != "_self_"]  # that it builds on
    inherited = [name for entry in others for name in _settings_of(entry)]
    return sorted({*defaults, *groups, *inherited, "hydra"} - {"defaults"})


def without_aliases(overrides: Sequence[str]) -> list[str]:
    """Put a benchmark's name in the place of an alias of it, ``genimage`` for ``GenImage``, and say so."""
    from mirror_pl.benchmarks import benchmark_aliases, benchmark_names

    found = []
    for override in overrides:
        match = _CHOICE.match(override)
        if match is None or match["group"] != "benchmark":
            found.append(override)
            continue
        names = match["names"].split(",")
        known = benchmark_aliases() if set(names) - set(benchmark_names()) else {}  # else no manifest need be read
        for name in names:
            if name in known:
                print(f"benchmark={name} is {known[name]} here", file=sys.stderr)
        found.append(override.partition("=")[0] + "=" + ",".join(known.get(name, name) for name in names))
    return found


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
        options += _registered_alone() if match["group"] == "detector" else []
        for name in match["names"].split(","):
            if name not in options and name != "null":
                raise ConfigError(
                    f"{match['group']}={name}: there is no such {match['group']}.{nearest(name, options)}\n"
                    f"Available: {', '.join(options)}"
                )


def _registered_alone() -> list[str]:
    """Return the detectors that other packages have registered, for which there is no YAML file here."""
    return sorted(name for name in registered_detectors() if not (config_dir() / f"detector/{name}.yaml").exists())


def register_with_hydra() -> None:
    """Make known what configs may ask for.

    These are ``${miniature:...}``, files shipped with the package; ``${inputs:}``; and detectors of other packages.
    """
    for name in _registered_alone():
        node = {"name": name, "checkpoint": None, "merge_lora": True, "size": None}
        ConfigStore.instance().store(group="detector", name=name, node=node)
    OmegaConf.register_new_resolver("miniature", lambda name: str(miniature_dir() / name), replace=True)
    OmegaConf.register_new_resolver("inputs", paths_token, replace=True)


def _report(error: Exception) -> int:
    """Print an error, in the command line's words for what has another name in Python, and return the exit code."""
    # A message may have several lines; the further ones are set in, so that none that a name brings passes for one of ours.
    said = re.sub(r"\bbackbone_folder\b", "backbone.path", str(error))
    print("error:", "\n  ".join(map(printable, said.split("\n"))), file=sys.stderr)
    return error.exit_code if isinstance(error, MirrorError) else EXIT_NOT_STARTED
