"""The console script: what it lists, what ``--help`` prints, and what the Tab key completes."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mirror_pl import __version__
from mirror_pl.__main__ import COMMANDS
from mirror_pl.config.command import compose
from mirror_pl.config.help import ConfigText, Setting, help_text, read_config_text, what_it_does
from mirror_pl.config.schema import _OF_COMMANDS, DetectorTrainSettings, MemoryTrainSettings, Settings
from mirror_pl.locate import config_dir

SETTINGS: dict[str, type[Settings]] = {**_OF_COMMANDS, "train": DetectorTrainSettings}
SCRIPT = Path(sys.executable).with_name("mirror-pl")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, env={**os.environ, **environment})


def test_every_command_has_a_config_and_the_other_way_round() -> None:
    assert sorted(COMMANDS) == sorted(path.stem for path in config_dir().glob("*.yaml")) == sorted(SETTINGS)


def test_alone_it_lists_the_commands() -> None:
    done = run()
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
        assert what_it_does(name) in done.stdout


def test_it_says_its_version_and_names_what_was_meant() -> None:
    assert run("--version").stdout == f"mirror_pl {__version__}\n"
    assert run("eval", "--version").stdout == f"mirror_pl {__version__}\n"
    for words in (["-sc"], ["-sc", "bash"]):
        done = run(*words)
        assert (done.returncode, done.stderr) == (
            2,
            'error: -sc: give a shell too, as in eval "$(mirror-pl -sc install=bash)"\n',
        )
    done = run("evl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "evl: there is no such command. Did you mean eval?" in done.stderr


def test_it_runs_what_the_module_runs() -> None:
    """Help first, then a command that needs no model; its exit code too."""
    assert run("predict", "--help").stdout.startswith("mirror-pl predict PATH... [setting=value")
    done = run("predict", "nowhere.jpg")
    assert done.returncode == 2
    assert "error: input: nowhere.jpg does not exist" in done.stderr


@pytest.mark.parametrize("command", sorted(SETTINGS))
def test_help_has_all_settings_of_the_command_and_no_others(command: str) -> None:
    text = help_text(command, width=100)
    groups = read_config_text(config_dir() / f"{command}.yaml").groups
    fields = {field.alias or name for name, field in SETTINGS[command].model_fields.items()}
    left_out = {"perturb", "format_align", "repeat", "compat"} if command == "robustness" else set()
    words = {line.strip().partition("=")[0] for line in text.splitlines() if "=" in line}
    for name in fields - left_out:
        assert name in words or any(word.startswith(f"{name}.") for word in words), name
    alone = {word for word in words if word.isidentifier() and not word.startswith("eval")} - {"-m"}
    assert alone <= fields | {*groups} | ({"validation"} if command == "train" else set())
    assert not left_out & words
    wrapped = text.partition("Groups:")[2].rpartition("\n\n")[0] or text.partition("Settings:")[2].rpartition("\n\n")[0]
    assert max(map(len, wrapped.splitlines())) <= 100


@pytest.mark.parametrize("command", sorted(SETTINGS))
def test_the_examples_of_a_help_compose(command: str) -> None:
    examples = read_config_text(config_dir() / f"{command}.yaml").examples
    assert len(examples) == 2
    for example in examples:
        program, name, *words = [word.strip("'") for word in example.split()]
        assert (program, name) == ("mirror-pl", command)
        compose(command, [word for word in words if "=" in word and "," not in word])


def test_help_shows_the_comment_of_each_setting() -> None:
    lines = help_text("eval", width=140).splitlines()
    assert (
        f"  {'crops=null':<34}center, five, grid3x3, grid4x4, grid5x5, multiscale, native, windows; null: as published"
        in lines
    )
    assert any(line.startswith("  trainer.devices=1  ") for line in lines)
    assert any(line.startswith("      aigcdetect, aigi_now") for line in lines), "the options of a group"


def test_help_follows_the_options_that_are_chosen() -> None:
    assert "phase.slots=4096" in help_text("train")
    text = help_text("train", ["phase=detector"])
    assert "phase.lora_rank=8" in text
    assert "phase.slots" not in text
    assert "module.label_smoothing" in text, "what the phase chooses in other groups"
    assert "detector.fake_label" in help_text("eval", ["detector=hf_classifier"])
    assert "detector.head" not in help_text("eval"), "of training alone"
    assert {"phase", "batch_size"} <= {*MemoryTrainSettings.model_fields}


def test_help_has_no_heading_without_a_name_or_without_lines() -> None:
    for command in COMMANDS:
        lines = [*help_text(command, width=140).splitlines(), ""]
        assert not [line for line, below in pairwise(lines) if line.endswith(":") and (line == ":" or not below)]
    lines = help_text("robustness", width=140).splitlines()
    assert next(line for line in lines if line.startswith("  output_dir")) == lines[lines.index("The run folder:") + 1]
    assert "hydra." not in "".join(lines)


def test_a_config_is_read_with_its_comments(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: 1   # one\n## Base\nb: 2   # two\nc: 3   # three\n")
    (tmp_path / "own.yaml").write_text(
        "# About it.\n# More.\n#   mirror-pl own a=3\n# without: a\ndefaults:\n  - base\n  - group: option  # choose\n  - _self_\n\n"
        '## Part\n# Long\nc: ${x}  # story\nd:\n  e: [1, 2]   # deep\nf: "a # b"\n'
    )
    assert read_config_text(tmp_path / "own.yaml") == ConfigText(
        ["About it.", "More."],
        ["mirror-pl own a=3"],
        {"group": ("option", "choose")},
        [
            Setting("Base", "b", "2", "two"),
            Setting("Base", "c", "${x}", "Long story"),
            Setting("Part", "d.e", "[1, 2]", "deep"),
            Setting("Part", "f", '"a # b"', ""),
        ],
    )


def test_who_stops_reading_help_sees_no_error() -> None:
    done = subprocess.run(f"'{SCRIPT}' train --help | head -1", shell=True, capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mirror-pl pre", "predict"),
        ("mirror-pl eval benchmark=geni", "benchmark=genimage"),
        ("mirror-pl train phase=pro", "phase=probe"),
    ],
)
def test_the_tab_key_completes(line: str, expected: str) -> None:
    done = run("-sc", "query=bash", COMP_LINE=line)
    assert expected in done.stdout.split(), done.stderr


def test_completion_is_installed_for_the_script() -> None:
    assert run("-sc", "install=bash").stdout.rstrip().endswith("hydra_bash_completion mirror-pl")
