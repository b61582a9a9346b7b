"""What ``--help`` prints: a command's settings, with their comments in the YAML files. It is quick, as it knows no Hydra."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from mirror_pl.locate import config_dir

_SETTING: Final = re.compile(r'^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>"[^"]*"|\S.*?))??(?: +# (?P<comment>.*))?$')
_GROUP: Final = re.compile(
    r"^  - (?:optional |override /)?(?P<group>[\w/]+): *(?P<option>\[?[\w,]+]?)?(?: +# (?P<comment>.*))?$"
)
_EXAMPLE: Final = "#   mirror-pl "
_SECTION: Final = "## "
_WITHOUT: Final = "# without: "
_LISTED_ALONE: Final = {"benchmark", "suite", "experiment"}
"""Groups whose options are listed, without what is in them."""
_WITHOUT_CHOICE: Final = {"data", "trainer", "paths"}
"""Groups of which a command has one option, and the settings in it."""
_LEFT: Final = 34
"""Columns that names and values take, before the comment."""


@dataclass(frozen=True)
class Setting:
    """A setting as its YAML file has it: its name with the groups above it, its value there, and its comment."""

    section: str
    name: str
    value: str
    comment: str


@dataclass
class ConfigText:
    """What a YAML file of `configs/` says to people: its first comment, examples, groups by name, and settings."""

    about: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    groups: dict[str, tuple[str, str]] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)


def read_config_text(path: Path) -> ConfigText:
    """Read a YAML file with its comments; its settings come after or in the place of those that it builds on."""
    found, section, pending, parents, without = ConfigText(), "", "", list[tuple[int, str]](), set[str]()
    in_header = True
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(_EXAMPLE):
            found.examples.append(line[2:].strip())
        elif line.startswith(_WITHOUT):
            without = set(line.removeprefix(_WITHOUT).split(", "))
        elif line.startswith(_SECTION):
            section = line.removeprefix(_SECTION)
        elif line.startswith("# @package"):
            continue
        elif line.startswith("# "):
            if in_header:
                found.about.append(line[2:])
            else:
                pending += line[2:] + " "
        elif matched := _GROUP.match(line):
            found.groups[matched["group"]] = (matched["option"] or "", matched["comment"] or "")
        elif matched := _SETTING.match(line):
            in_header, depth = in_header and not line.strip(), len(matched["indent"])
            parents = [parent for parent in parents if parent[0] < depth]
            name = ".".join([*(parent[1] for parent in parents), matched["key"]])
            comment, pending = (pending + (matched["comment"] or "")).strip(), ""
            if matched["value"] is None:
                parents.append((depth, matched["key"]))
            elif parents[:1] != [(0, "hydra")]:
                found.settings.append(Setting(section, name, matched["value"], comment))
        else:
            in_header, pending = in_header and not line.strip(), ""
    defaults: Any = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])
    for other in [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]:
        base = read_config_text(path.with_name(f"{other}.yaml"))
        own = {setting.name: setting for setting in found.settings}
        kept = [
            replace(own.pop(each.name), section=each.section) if each.name in own else each
            for each in base.settings
            if each.name not in without
        ]
        found.groups, found.settings = base.groups | found.groups, [*kept, *own.values()]
    return found


def what_it_does(command: str) -> str:
    """Return the line that says what a command does."""
    return read_config_text(config_dir() / f"{command}.yaml").about[0].rstrip(".")


def help_text(command: str, overrides: Sequence[str] = (), width: int | None = None) -> str:
    """Return what ``--help`` prints for a command.

    Args:
        command: Its name.
        overrides: The rest of its command line: of a group's option that is chosen there, the settings are shown.
        width: Columns of the terminal; None asks it.
    """
    width = min(width or shutil.get_terminal_size((120, 24)).columns, 140)
    config = read_config_text(config_dir() / f"{command}.yaml")
    groups = {name: option for name, (option, _) in config.groups.items()}
    chosen = dict(override.split("=", 1) for override in overrides if override.partition("=")[0] in groups)
    groups |= chosen
    for name in ("phase", "experiment"):  # these choose other groups' options
        path = config_dir() / name / f"{groups.get(name)}.yaml"
        if path.exists():
            groups |= {key: option for key, (option, _) in read_config_text(path).groups.items() if key in groups}
    groups |= chosen
    paths = "PATH... " if any("${inputs:}" in each.value for each in config.settings) else ""
    lines = [
        f"mirror-pl {command} {paths}[setting=value | group=option | group.setting=value]...",
        "",
        *textwrap.wrap(" ".join(config.about), width),
    ]
    lines += ["", "Examples:", *(f"  {example}" for example in config.examples)]
    shown = [name for name in groups if name not in ("local", "hydra")]
    chosen_from = [name for name in shown if name not in _WITHOUT_CHOICE]
    if chosen_from:
        lines += ["", "Groups:"]
    for name in chosen_from:
        lines += _entry(f"{name}={groups[name]}", config.groups[name][1], width)
        lines += textwrap.wrap(", ".join(_options(name)), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if config.settings and not config.settings[0].section:
        lines += ["", "Settings:"]
    lines += _settings(config.settings, width)
    for name in shown:
        for option in groups[name].strip("[]").split(","):
            path = config_dir() / name / f"{option}.yaml"
            if name in _LISTED_ALONE or not path.exists():
                continue
            text = read_config_text(path)
            prefix = "" if "# @package _global_" in path.read_text(encoding="utf-8") else f"{name}."
            of_group = [replace(each, name=prefix + each.name) for each in text.settings if each.comment]
            of_command = [each for each in of_group if command == "train" or not each.name.startswith("detector.head")]
            if of_command:
                about = " ".join(text.about).partition(". ")[0].rstrip(".")
                lines += ["", *textwrap.wrap(f"{name}={option}: {about}", width), *_settings(of_command, width)]
    lines += [
        "",
        "-m sweeps over comma-separated values; --cfg job prints the whole config; --hydra-help: what Hydra takes.",
        'eval "$(mirror-pl -sc install=bash)" completes settings and options with the Tab key.',
    ]
    return "\n".join(lines)


def print_patiently(text: str) -> None:
    """Print to whoever may stop reading, as ``head`` does, without an error when that happens."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at exit


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def _settings(settings: Sequence[Setting], width: int) -> list[str]:
    lines, section = list[str](), ""
    for setting in settings:
        if setting.section != section:
            section = setting.section
            lines += ["", f"{section}:"]
        value = "..." if "${" in setting.value else "(must be given)" if setting.value == "???" else setting.value
        lines += _entry(f"{setting.name}={value}", setting.comment, width)
    return lines


def _entry(left: str, comment: str, width: int) -> Iterator[str]:
    indent = " " * (_LEFT + 2)
    wrapped = textwrap.wrap(
        comment, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    ) or [""]
    if len(left) < _LEFT:
        wrapped[0] = f"  {left:<{_LEFT}}{wrapped[0].strip()}".rstrip()
    else:
        wrapped.insert(0, f"  {left}")
    yield from (line for line in wrapped if line)
