"""A training that is stopped anywhere and gone on with by a plain Trainer ends with the bytes of one that was not stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from golden_set import SMALL
from interruptions import Stopped, stopped_after_saves
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mirror_pl import DetectorModule, MemoryBankModule, TrainingDataModule, load_detector
from mirror_pl.callbacks import ResumePoint, WholeFiles
from mirror_pl.detectors import DetectorConfig, MemoryBankConfig
from mirror_pl.detectors.checkpoint import BackboneSource, load_backbone
from mirror_pl.detectors.untrained import untrained_detector

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = {1: 15, 2: 9}
"""Of three epochs of five batches, by the batches per step."""


class StopAfter(pl.Callback):
    """Ends the training after so many batches: as suddenly as inside a process may be, or by SIGKILL."""

    def __init__(self, batches: int, kill: bool = False) -> None:
        self.left = batches
        self.kill = kill

    def on_train_batch_end(self, *args: Any) -> None:
        self.left -= 1
        if not self.left and self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.left:
            raise Stopped


def module(phase: str) -> pl.LightningModule:
    if phase == "detector":  # with dropout in its head
        return DetectorModule(load_detector(SMALL.checkpoint, merge=False), reference_batch=None, mixup=0.2)
    backbone = load_backbone(SMALL.backbone_path)
    config = DetectorConfig(backbone.config, lora=None, memory_bank=MemoryBankConfig(48, 4, 6))
    source = BackboneSource.of(SMALL.backbone_path)
    return MemoryBankModule(untrained_detector(config, backbone, seed=0), backbone=source)


def fit(
    folder: Path,
    phase: str,
    workers: int,
    accumulate: int,
    *callbacks: pl.Callback,
    every: int = 1,
    own: bool = False,
    **options: Any,
) -> dict[str, Tensor]:
    """Train three epochs, going on from what is in the folder; return what was learnt."""
    validation = {"mine": SMALL.data_root / "WildRF"} if phase == "detector" else None
    data = TrainingDataModule(root=SMALL.data_root / "WildRF", batch_size=4, num_workers=workers, validation=validation)
    saving: Any = ModelCheckpoint(
        folder, save_last=True, save_top_k=0, every_n_train_steps=every, enable_version_counter=False
    )
    if own:
        best = ModelCheckpoint(folder, "best", "val/bal_acc", mode="max", enable_version_counter=False)
        saving, callbacks = ResumePoint(folder, every), (*callbacks, best)
    trainer = pl.Trainer(
        max_epochs=3, accumulate_grad_batches=accumulate, callbacks=[*callbacks, saving], plugins=[WholeFiles()], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    one: Any = module(phase)
    last = folder / "last.ckpt"
    trainer.fit(one, data, ckpt_path=str(last) if last.exists() else None)
    assert trainer.global_step == STEPS[accumulate]
    trainer.save_checkpoint(folder / "end.ckpt")
    return torch.load(folder / "end.ckpt", weights_only=True)["state_dict"]


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize(
    ("phase", "workers", "accumulate", "stops"),
    [
        pytest.param("detector", 0, 2, (1, 8), marks=pytest.mark.slow),
        ("detector", 2, 1, (10,)),
        ("memory", 0, 2, (3, 5)),
        ("memory", 0, 1, (7, 15)),
    ],
)
def test_stopped_anywhere(tmp_path: Path, phase: str, workers: int, accumulate: int, stops: tuple[int, ...]) -> None:
    """In an epoch, at its end, between two batches of a step; with validation, dropout, mixup and augmentation."""
    expected = fit(tmp_path / "whole", phase, workers, accumulate)
    for stop in stops:
        with pytest.raises(Stopped):
            fit(tmp_path / f"after{stop}", phase, workers, accumulate, StopAfter(stop))
        assert_equal(fit(tmp_path / f"after{stop}", phase, workers, accumulate), expected)


@pytest.mark.parametrize(
    ("accumulate", "chains"), [(1, ((5, 1, 4),)), pytest.param(2, ((4, 1, 1),), marks=pytest.mark.slow)]
)
def test_stopped_again_and_again_after_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, chains: tuple[tuple[int, ...], ...]
) -> None:
    """By the callback of the commands; also at an epoch's end, where Lightning's own would miss a validation: best.ckpt too."""
    expected = fit(tmp_path / "whole", "detector", 0, accumulate, own=True)
    best = torch.load(tmp_path / "whole/best.ckpt", weights_only=True)
    for chain in chains:
        folder = tmp_path / str(chain)
        for saves in chain:
            with stopped_after_saves(monkeypatch, saves):
                fit(folder, "detector", 0, accumulate, own=True)
        assert_equal(fit(folder, "detector", 0, accumulate, own=True), expected)
        again = torch.load(folder / "best.ckpt", weights_only=True)
        assert again["global_step"] == best["global_step"]
        assert_equal(again["state_dict"], best["state_dict"])


class Validations(pl.Callback):
    """Notes after which steps there was one."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.slow
def test_no_validation_in_an_epoch_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is saved between a batch and the validation that follows it: a training gone on with from there has none."""
    whole, stopped = Validations(), Validations()
    expected = fit(tmp_path / "whole", "detector", 0, 1, whole, own=True, val_check_interval=2)
    assert len(set(whole.steps)) > 3
    with stopped_after_saves(monkeypatch, 2):
        fit(tmp_path / "run", "detector", 0, 1, stopped, own=True, val_check_interval=2)
    assert_equal(fit(tmp_path / "run", "detector", 0, 1, stopped, own=True, val_check_interval=2), expected)
    assert set(stopped.steps) == set(whole.steps)


@pytest.mark.slow  # ten processes for each, that start anew
@pytest.mark.parametrize("phase", ["detector", "memory"])
@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 2)])
def test_killed_at_random_steps(tmp_path: Path, phase: str, workers: int, accumulate: int) -> None:
    expected = fit(tmp_path / "whole", phase, workers, accumulate)
    draw = random.Random(f"{phase} {workers}")
    for number in range(10):
        folder, every = tmp_path / str(number), draw.choice([1, 2, 3])
        command = [sys.executable, __file__, str(folder), phase, str(workers), str(accumulate), str(every)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])}
        done = subprocess.run([*command, str(draw.randint(1, 15))], env=env, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        assert_equal(fit(folder, phase, workers, accumulate, every=every), expected)


if __name__ == "__main__":
    where, kind, *numbers, batches = sys.argv[1:]
    loaders, together, between = map(int, numbers)
    fit(Path(where), kind, loaders, together, StopAfter(int(batches), kill=True), every=between)
