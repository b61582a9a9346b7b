"""The shipped configs: every option composes and builds, mistakes are named, nothing untrusted is built."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from mirror_pl.benchmarks import benchmark_names, load_manifest
from mirror_pl.config.build import build, build_manifest, build_trainer
from mirror_pl.config.build_detector import build_backbone
from mirror_pl.config.command import check_choices, check_overrides, compose, without_aliases
from mirror_pl.config.schema import BackboneSettings, ConvertSettings, EvalSettings, PrecisionName, read_settings
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES, known_backbone
from mirror_pl.detectors.scoring import PRECISIONS
from mirror_pl.errors import ConfigError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.locate import CHECKOUT, config_dir

MINIATURE = len(list((CHECKOUT / "data/miniature/test").rglob("*.jpg")))
TRAINING = ("augment", "experiment", "module", "optimizer", "phase", "scheduler")
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in config_dir().glob("*/*.yaml")
    if path.parent.name not in ("hydra", "suite", "weights")
)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="=".join)
def test_every_option_composes(group: str, option: str) -> None:
    """In the command it is for: training has options of its own."""
    trains = option in ("training", "ema", "early_stopping") or group in TRAINING
    cfg = compose("robustness" if group == "suite" else "train" if trains else "eval", [f"{group}={option}"])
    assert OmegaConf.to_yaml(cfg, resolve=True)


def test_every_known_backbone_has_a_config_and_the_other_way_round() -> None:
    names = {option for group, option in OPTIONS if group == "backbone"}
    assert names == {"auto", "clip_l", *KNOWN_BACKBONES}, "CLIP is UnivFD's, and no backbone of MIRROR's"
    for name in KNOWN_BACKBONES:
        settings = read_settings(compose("eval", [f"backbone={name}"]), EvalSettings)
        assert build_backbone(settings.backbone) == known_backbone(name)
    assert build_backbone(BackboneSettings()) is None


def test_the_data_module_and_trainer_are_built(tmp_path: Path) -> None:
    cfg = compose(
        "eval", ["batch_size=3", "num_workers=1", "trainer.accelerator=cpu", f"trainer.default_root_dir={tmp_path}"]
    )
    data = build(cfg.data, manifest=build_manifest(cfg), data_root=cfg.data_root)
    assert (data.batch_size, data.num_workers, len(data.index)) == (3, 1, MINIATURE)
    assert build_trainer(cfg).world_size == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size must be auto or a whole number of at least 1, got 0"),
        ("batch_size=abc", "batch_size must be auto or a whole number of at least 1, got abc"),
        ("batch_size=null", "batch_size must be auto or a whole number of at least 1, got null"),
        ("num_workers=-1", "num_workers must be at least 0, got -1"),
        ("num_workers=auto", "num_workers: must be a whole number, .*got auto"),
        ("data_root=null", "data_root: must be a valid string, got null"),
        ("max_bad_fraction=2", "max_bad_fraction must be at most 1, got 2"),
        ("max_bad_fraction=null", "max_bad_fraction: must be a valid number, got null"),
        ("require_all=maybe", "require_all: must be a valid boolean, .*got maybe"),
        ("cache_limit_gb=0", "cache_limit_gb must be more than 0, got 0"),
        ("cache_limit_gb=null", "cache_limit_gb: must be a valid number, got null"),
        ("compat=yes", "compat must be one of published or None, got yes"),
        ("detector.merge_lora=3.5", "detector.merge_lora: must be a valid boolean, got 3.5"),
    ],
)
def test_values_that_make_no_sense(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(compose("eval", [override]), EvalSettings)


def test_values_are_converted_once_for_all() -> None:
    cfg = compose("eval", ["require_all=no", "detector.merge_lora=off", "num_workers='7'", "output_dir=2026"])
    settings = read_settings(cfg, EvalSettings)
    assert (settings.require_all, settings.detector.merge_lora, settings.num_workers) == (False, False, 7)
    assert settings.output_dir == "2026"
    assert cfg.data.num_workers == 7


def test_precisions_are_those_of_the_detectors() -> None:
    assert get_args(PrecisionName) == tuple(PRECISIONS)


def test_settings_that_were_not_given() -> None:
    with pytest.raises(ConfigError, match=r"input: not given; add input=\.\.\."):
        read_settings(compose("convert"), ConvertSettings)


@pytest.mark.parametrize(
    "override", ["+trainer.limit_test_batches=1", "+trainer.limit_test_batches=0.5", "+trainer.fast_dev_run=true"]
)
def test_a_trainer_that_would_leave_images_out_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="leave images out"):
        evaluation.run(compose("eval", [override, "trainer.accelerator=cpu"]))


def test_a_strategy_that_would_lose_results_is_refused() -> None:
    with pytest.raises(ConfigError, match="use ddp"):
        build_trainer(compose("eval", ["trainer.strategy=ddp_spawn", "trainer.accelerator=cpu", "trainer.devices=2"]))


def test_no_benchmark_but_the_miniature_gets_the_embedded_weights() -> None:
    embedded = str(CHECKOUT / "data/miniature/detector")
    assert compose("eval").checkpoint == embedded
    assert compose("eval", ["benchmark=wildrf"]).checkpoint is None
    assert compose("eval", ["backbone=dinov3_l"]).checkpoint is None
    assert compose("eval", ["benchmark=wildrf", "backbone=miniature"]).checkpoint == embedded


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark=genimge", "Did you mean genimage"),
        ("benchmark=GenImage", "Did you mean genimage"),
        ("benchmark=wildrf,chamelon", "benchmark=chamelon: there is no such benchmark. Did you mean chameleon"),
        ("backbone=dinov3_h", "Did you mean dinov3_hplus"),
        ("logger=tensorbord", "Available: csv, none, tensorboard, wandb"),
    ],
)
def test_unknown_options_get_the_nearest(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_choices([override])


def test_choices_left_to_hydra() -> None:
    check_choices(["benchmark=glob(*)", "benchmark.name=other", "batch_size=3", "+benchmark=genimage", "~logger"])
    check_overrides(["--config-dir=mine", "benchmark=mine"], "eval")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bach_size=3", "bach_size: there is no such setting. Did you mean batch_size?"),
        ("+benchmrk=genimage", "benchmrk: there is no such setting. Did you mean benchmark?"),
        ("checkpoint=/tmp/epoch=3 best.pth", "write \"checkpoint='/tmp/epoch=3 best.pth'\""),
        ("backbone.path=~/x", "write \"backbone.path='~/x'\""),
    ],
)
def test_command_lines_that_hydra_would_answer_in_riddles(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose("eval", [override])


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.acelerator: there is no such setting\. Did you mean accelerator\?"):
        compose("eval", ["trainer.acelerator=cpu"])
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: there is no such setting\."):
        compose("train", ["phase=probe", "optimizer.learning_rate=cpu"])
    with pytest.raises(ConfigAttributeError):
        _ = compose("eval").bach_size


def test_paths_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose("eval", ["benchmark=genimage"]).data_root == "data"
    monkeypatch.setenv("MIRROR_DATA", "/far/away")
    assert compose("eval", ["benchmark=genimage"]).data_root == "/far/away"
    hplus = compose("eval", ["benchmark=genimage", "backbone=dinov3_hplus"])
    assert hplus.checkpoint == "checkpoints/checkpoint-h-cur.pth"
    assert hplus.output_dir.startswith("outputs/eval/genimage/")


PAGES = ["README.md", "README_zh.md", *sorted(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_the_pages_compose(name: str) -> None:
    text = (CHECKOUT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^\s*(?:\$ )?(?:\w+=\S+ )?(?:python -m mirror_pl\.|mirror-pl )(\w+)(.*)$", text, re.MULTILINE)
    assert len(commands) >= 5 or name not in ("README.md", "README_zh.md")
    for command, arguments in commands:
        if "detector=sharpness" in arguments:  # of another package: test_plugin.py runs it
            continue
        words = [word for word in shlex.split(arguments, comments=True) if word != "..."]
        if any(word.startswith("-") for word in words):
            continue
        while words and "=" not in words[0]:  # a path, which a command may begin with
            words.pop(0)
        compose(command, words)


def test_what_a_target_refuses_is_said_in_its_own_words() -> None:
    """Hydra's error names the target alone."""
    cfg = compose("train", ["augment.crop_px=336"])
    with pytest.raises(ConfigError, match=r"^augment\.rescale_px must be \[smallest, largest\]"):
        build(cfg.augment)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'sizes'"):
        build(compose("train", ["+augment.sizes=336"]).augment)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("GenImage", "genimage"),
        ("AIGCDetect", "aigcdetect"),
        ("UnivFakeDetect", "univfd"),
        ("SynthWildx", "synthwildx"),
        ("BFree-Online", "bfree_online"),
    ],
)
def test_a_name_of_the_release_of_october_is_taken_for_ours(
    alias: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compose("eval", [f"benchmark={alias}"]).benchmark.name == name
    assert f"benchmark={alias} is {name} here" in capsys.readouterr().err


def test_an_alias_is_of_one_benchmark_and_no_name() -> None:
    names = benchmark_names()
    aliases = [alias for name in names for alias in load_manifest(name).aliases]
    assert len(aliases) == len({*aliases}) == 5
    assert not {*aliases} & {*names}
    assert without_aliases(["benchmark=wildrf,GenImage", "seed=1"]) == ["benchmark=wildrf,genimage", "seed=1"]
    with pytest.raises(ConfigError, match="benchmark=GenImag: there is no such benchmark"):
        compose("eval", ["benchmark=GenImag"])
