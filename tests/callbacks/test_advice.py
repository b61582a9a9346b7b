"""What a training says of its own chances."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mirror_pl.callbacks import TrainingAdvice
from mirror_pl.modules.objectives import WarmUpThenCosine


def trainer(
    steps: int = 300, max_steps: int = -1, reals: int = 100, fakes: int = 100, warm_up: float = 0, **figures: float
) -> Any:
    per_epoch = 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = WarmUpThenCosine(optimizer, steps, per_epoch, warm_up)
    return SimpleNamespace(
        estimated_stepping_batches=steps,
        num_training_batches=2 * per_epoch,
        accumulate_grad_batches=2,
        is_global_zero=True,
        max_steps=max_steps,
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)],
        datamodule=SimpleNamespace(training_set=SimpleNamespace(labels=np.repeat([0, 1], [reals, fakes]))),
        callback_metrics={f"train/{name}": torch.tensor(value) for name, value in figures.items()},
    )


def said(capsys: pytest.CaptureFixture[str], given: Any, slots: int = 100) -> list[str]:
    advice = TrainingAdvice()
    module: Any = SimpleNamespace(usage=torch.zeros(slots))
    advice.on_train_start(given, module)
    advice.on_train_end(given, module)
    return capsys.readouterr().out.splitlines()


def test_a_training_that_can_learn_says_how_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, trainer(warm_up=5, explained=0.2, dead_slots=10)) == ["300 steps: 15 epochs of 20"]


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"steps": 49}, "49 steps are few; raise phase.epochs"),
        ({"steps": 49, "max_steps": 49}, "49 steps are few; raise trainer.max_steps"),
        ({"warm_up": 5.1}, "rises during 102 of the 300 steps; lower scheduler.warm_up_epochs"),
        ({"reals": 99}, "99 real images are few; give more as data.real"),
        ({"fakes": 1}, "1 fake images are few; give more as data.fake"),
        ({"explained": -0.01}, "explains -0.01 of the features' variance"),
        ({"dead_slots": 11}, "11 of 100 slots are dead: no feature used them; lower phase.slots"),
    ],
    ids=lambda case: str(case)[:20],
)
def test_what_cannot_learn_is_said_with_the_setting_to_change(
    given: dict[str, Any], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, line = said(capsys, trainer(**given))
    assert line.startswith("Warning: ")
    assert warning in line


def test_a_class_that_is_not_trained_on_is_not_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(said(capsys, trainer(fakes=0))) == 1


def test_other_processes_are_silent_and_an_endless_training_has_no_length(capsys: pytest.CaptureFixture[str]) -> None:
    given = trainer(steps=1)
    given.is_global_zero = False
    assert said(capsys, given) == []
    given = trainer()
    given.estimated_stepping_batches = float("inf")
    assert said(capsys, given) == []
