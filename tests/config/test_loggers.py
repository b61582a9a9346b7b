"""What ``logger=`` builds: settings that reach W&B, and the group that a sweep's runs share."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from mirror_pl.config.build import build_loggers, sweep_name
from mirror_pl.config.command import compose


def wandb_settings(command: str, *overrides: str) -> dict[str, Any]:
    (logger,) = build_loggers(compose(command, ["logger=wandb", *overrides]))
    return logger.logger._wandb_init


@pytest.fixture
def in_sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    def enter(*overrides: str) -> None:
        config = {
            "mode": RunMode.MULTIRUN,
            "sweep": {"dir": "outputs/sweeps/tuesday"},
            "overrides": {"task": list(overrides)},
        }
        monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: OmegaConf.create(config)))

    return enter


def test_an_evaluation_by_itself() -> None:
    settings = wandb_settings("eval", "benchmark=genimage", "output_dir=here")
    assert settings["group"] is None
    assert settings["job_type"] == "eval"
    assert settings["tags"] == ["standard"]
    assert settings["name"] == "genimage"
    assert settings["settings"]["init_timeout"] == 30
    assert settings["dir"].endswith("/here")
    assert settings["dir"].startswith("/"), "W&B's helper process may be in another folder"


def test_a_training_is_held_together_by_its_folder() -> None:
    settings = wandb_settings("train", "output_dir=outputs/mine", "phase=memory")
    assert (settings["group"], settings["job_type"], settings["tags"]) == ("mine", "train", ["train"])


def test_what_a_user_says_wins(in_sweep: Any) -> None:
    in_sweep()
    settings = wandb_settings(
        "eval", "logger.wandb.group=ours", "logger.wandb.job_type=ablation", "logger.wandb.tags=[a]", "logger.wandb.entity=us",
        "logger.wandb.project=theirs", "logger.wandb.name=first", "+logger.wandb.notes=slow",
    )  # fmt: skip
    expected = {
        "group": "ours", "job_type": "ablation", "tags": ["a"], "entity": "us", "project": "theirs", "name": "first", "notes": "slow",
    }  # fmt: skip
    assert expected.items() <= settings.items()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["benchmark=wildrf"], "tuesday"),
        (["output_dir=outputs/mine"], "mine"),
        (["output_dir='outputs/my runs'"], "my runs"),
        (["output_dir=outputs/$\\{benchmark.name\\}"], "tuesday"),  # as Hydra keeps it
    ],
)
def test_a_sweep_is_a_group(in_sweep: Any, overrides: list[str], name: str) -> None:
    in_sweep(*overrides)
    assert sweep_name() == name
    assert wandb_settings("eval")["group"] == name
    assert wandb_settings("train")["group"] == name


def test_no_sweep() -> None:
    assert sweep_name() is None


@pytest.mark.parametrize(
    ("override", "mode"), [("logger.wandb.mode=offline", "offline"), ("+logger.wandb.offline=true", "offline")]
)
def test_offline_in_wandbs_words_and_in_lightnings(override: str, mode: str) -> None:
    settings = wandb_settings("eval", override)
    assert settings["mode"] == mode
    assert "offline" not in settings


def test_several_loggers() -> None:
    loggers = build_loggers(compose("eval", ["logger=[csv,wandb]", "output_dir=out"]))
    assert [logger.option for logger in loggers] == ["csv", "wandb"]
    assert build_loggers(compose("eval", ["logger=none"])) == []
