"""The whole chain on a world of a few crops: every part runs, from one folder, and is not run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.jobs import miniature
from mirror_pl.jobs import train as training
from mirror_pl.miniature import WorldSpec

SPEC = WorldSpec(train_crops=2, val_crops=2, test_crops=2, steps=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    train = miniature._train

    def train_briefly(output: Path, experiment: str, overrides: Iterable[str]) -> None:
        train(output, experiment, [*overrides, "phase.epochs=1", "batch_size=8"])

    monkeypatch.setattr(miniature, "WorldSpec", lambda: SPEC)
    monkeypatch.setattr(miniature, "_train", train_briefly)


def chain(output: Path, *more: str) -> dict[str, object]:
    overrides = ["experiment=miniature", f"output_dir={output}", "trainer.accelerator=cpu", "num_workers=0"]
    miniature.run(compose("train", [*overrides, "~callbacks.progress", f"paths.outputs={output}/outputs", *more]))
    return json.loads((output / "run.json").read_text())


def test_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    facts = chain(tmp_path / "run")
    assert "no detector for the real world" in capsys.readouterr().out
    assert set(facts["seconds"]) == {"world", "memory", "detector", "eval"}  # type: ignore[call-overload]
    assert set(facts["bal_acc"]) == {"seen", "held_out", *SPEC.seen, SPEC.held_out}  # type: ignore[call-overload]
    reals, fakes = (len(list((tmp_path / "run/world/train" / name).rglob("*.jpg"))) for name in ("0_real", "1_fake"))
    assert json.loads((tmp_path / "run/memory/run.json").read_text())["images"]["used"] == reals
    with pytest.raises(ConfigError, match="complete"):
        chain(tmp_path / "run")

    # Killed before its last file: what is complete is not made again.
    (tmp_path / "run/run.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(training, "run", None)
        patch.setattr(miniature, "build_world", None)
        assert set(chain(tmp_path / "run", "resume=true")["seconds"]) == {"memory", "detector", "eval"}  # type: ignore[call-overload]

    world = f"phase.world={tmp_path}/run/world"
    assert "memory" not in chain(tmp_path / "direct", world, "detector=direct")["seconds"]  # type: ignore[operator]
    assert "memory" not in chain(tmp_path / "probe", world, "detector=linear_probe")["seconds"]  # type: ignore[operator]
    assert json.loads((tmp_path / "probe/detector/run.json").read_text())["detector"]["head"]["hidden"] == 0
    chain(tmp_path / "mixed", world, "phase.bank=mixed")
    assert json.loads((tmp_path / "mixed/memory/run.json").read_text())["images"]["used"] == reals + fakes


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"phase\.world: nowhere is no world"):
        chain(tmp_path / "run", "phase.world=nowhere")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="batch_size, trainer: the miniature does not use it"):
        chain(tmp_path / "run", "batch_size=3", "trainer.devices=2")
    with pytest.raises(ConfigError, match=r"phase\.bank must be one of real, mixed or fake"):
        chain(tmp_path / "run", "phase.bank=both")
