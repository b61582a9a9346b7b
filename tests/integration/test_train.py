"""Phase 1 as a user runs it: what is learnt, what is kept, and going on where a run was stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden_set import SMALL
from interruptions import Stopped, run_with_kills, stopped_after_saves
from PIL import Image
from torch import Tensor

from mirror_pl.config.command import compose
from mirror_pl.detectors.checkpoint import load_backbone
from mirror_pl.errors import CheckpointError, ConfigError, DataError, IncompleteRunError
from mirror_pl.jobs.train import run
from mirror_pl.modules import memory_bank as memory_bank_module

SMALL_BANK = ["phase.slots=48", "phase.heads=4", "phase.top_k=6", "batch_size=8", "num_workers=0", "~callbacks.progress"]


IMAGES = Path(tempfile.gettempdir()) / f"mirror_pl_training_images_{os.getpid()}"


@pytest.fixture(scope="module", autouse=True)
def _images() -> Iterator[None]:
    """37 small pictures; where they are is part of a run's settings, so they stay there for all runs."""
    IMAGES.mkdir()
    for number, pixels in enumerate(SMALL.pixels()):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(IMAGES / f"{number}.jpg", quality=95)
    yield
    shutil.rmtree(IMAGES)


def overrides(output: Path, *more: str) -> list[str]:
    return [
        f"backbone.path={SMALL.backbone_path}", f"data.real={IMAGES}", f"output_dir={output}", "phase.epochs=3",
        "trainer.accelerator=cpu", "save_every_steps=2", "logger=none", f"paths.outputs={output.parent / 'outputs'}", *SMALL_BANK, *more,
    ]  # fmt: skip


def train(output: Path, *more: str) -> Path:
    run(compose("train", overrides(output, *more)))
    return output


def bank_of(output: Path) -> dict[str, Tensor]:
    return torch.load(output / "memory_bank.pth", weights_only=True)["model_state_dict"]


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("train") / "run", "optimizer.lr=1e-3")


def test_what_a_run_leaves(trained: Path) -> None:
    facts = json.loads((trained / "run.json").read_text())
    assert facts["steps"] == 3 * (37 // 8)
    assert facts["images"] == {"used": 37, "unreadable": 0}
    assert facts["detector"]["memory_bank"] == {"slots": 48, "heads": 4, "top_k": 6}
    figures = facts["figures"]
    assert figures["train/orthogonality"] >= figures["train/orthogonality_floor"] > 0
    assert 0 <= figures["train/usage_entropy"] <= 1
    content = torch.load(trained / "memory_bank.pth", weights_only=True)
    assert content["memory_config"] == {"feature_dim": 32, "mem_slots": 48, "num_heads": 4, "top_k": 6}
    assert content["epoch"] == 3


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(trained: Path, tmp_path: Path) -> None:
    assert equal(bank_of(trained), bank_of(train(tmp_path / "again", "optimizer.lr=1e-3", "num_workers=2")))
    assert not equal(bank_of(trained), bank_of(train(tmp_path / "other", "optimizer.lr=1e-3", "seed=1")))


@pytest.mark.parametrize("init", ["tokens", "kmeans"])
def test_prototypes_that_begin_as_features(trained: Path, tmp_path: Path, init: str) -> None:
    one, two = (train(tmp_path / name, f"phase.init={init}", "phase.epochs=1") for name in "ab")
    assert equal(bank_of(one), bank_of(two))
    assert not torch.allclose(bank_of(one)["memory"], bank_of(trained)["memory"], atol=0.1)


def test_the_loss_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[float] = []
    real = memory_bank_module.reconstruction_loss
    monkeypatch.setattr(
        memory_bank_module,
        "reconstruction_loss",
        lambda *args: (errors.append(float((loss := real(*args)).detach())), loss)[1],
    )
    train(tmp_path / "run", "phase.epochs=15", "optimizer.lr=1e-2")
    assert sum(errors[-4:]) < 0.7 * sum(errors[:4])


@pytest.mark.parametrize("saves", [1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saves: int
) -> None:
    output = tmp_path / "run"
    with stopped_after_saves(monkeypatch, saves):
        train(output, "optimizer.lr=1e-3")
    assert not (output / "run.json").exists()
    with pytest.raises(ConfigError, match="interrupted or still running"):
        train(output, "optimizer.lr=1e-3")
    with pytest.raises(ConfigError, match=r"resume: .* other values of optimizer\.lr"):
        train(output, "optimizer.lr=2e-3", "resume=true")
    train(output, "optimizer.lr=1e-3", "resume=true")
    assert equal(bank_of(output), bank_of(trained))
    assert json.loads((output / "run.json").read_text())["resumed_after"] == 2 * saves
    assert f"Resumed after step {2 * saves}." in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is complete; there is nothing to go on with"):
        train(output, "optimizer.lr=1e-3", "resume=true")


def test_a_run_stopped_after_its_last_step_writes_what_it_learnt(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"

    def stop(*args: object, **kwargs: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("mirror_pl.jobs.memory_phase.save_bank", stop)
        train(output, "optimizer.lr=1e-3")
    assert not (output / "memory_bank.pth").exists()
    train(output, "optimizer.lr=1e-3", "resume=true")
    assert equal(bank_of(output), bank_of(trained))


def test_what_was_logged_before_a_stop_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"
    more = ("logger=csv", "trainer.log_every_n_steps=1")
    with stopped_after_saves(monkeypatch):
        train(output, "phase.epochs=1", *more)
    before = {path: path.read_bytes() for path in (output / "csv").rglob("metrics.csv")}
    train(output, "phase.epochs=1", *more, "resume=true")
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list((output / "csv").rglob("metrics.csv"))) == len(before) + 1


def test_resuming_with_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, images = tmp_path / "run", tmp_path / "images"
    shutil.copytree(IMAGES, images)
    with stopped_after_saves(monkeypatch):
        train(output, f"data.real={images}")
    (images / "0.jpg").unlink()
    with pytest.raises(ConfigError, match=r"depends on has changed since it was started: data"):
        train(output, f"data.real={images}", "resume=true")


def test_a_folder_with_somebody_elses_bank_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "memory_bank.pth").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match=r"holds memory_bank\.pth of something else"):
        train(output)
    assert (output / "memory_bank.pth").read_bytes() == b"theirs"


def test_half_precision_products_do_not_reach_the_loss(trained: Path, tmp_path: Path) -> None:
    output = train(tmp_path / "run", "optimizer.lr=1e-3", "trainer.precision=bf16-mixed")
    figures, exact = (json.loads((path / "run.json").read_text())["figures"] for path in (output, trained))
    assert figures["train/orthogonality"] == pytest.approx(exact["train/orthogonality"], rel=1e-4)
    assert figures["train/orthogonality"] >= figures["train/orthogonality_floor"]


def test_only_the_bank_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules: list[memory_bank_module.MemoryBankModule] = []
    begin = memory_bank_module.MemoryBankModule.begin_training
    monkeypatch.setattr(
        memory_bank_module.MemoryBankModule, "begin_training", lambda self: (begin(self), modules.append(self))[0]
    )
    train(tmp_path / "run", "optimizer.lr=1e-2", "phase.epochs=1")
    detector = modules[0].detector
    trained = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    bank = {"memory", "q.weight", "k.weight", "v.weight", "out.weight", "out.bias"}
    assert trained == {f"memory_bank.{name}" for name in bank}
    before = load_backbone(SMALL.backbone_path).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.backbone.state_dict().items())
    assert not any(module.training for name, module in modules[0].train().named_modules() if "backbone" in name)


def test_an_unreadable_image_is_left_out_and_named(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted(IMAGES.iterdir())[:9]):
        (images / f"{number}.jpg").write_bytes(path.read_bytes())
    (images / "bad.png").write_bytes(b"no image")
    with pytest.raises(IncompleteRunError, match=r"1 images could not be read and were left out: .*bad\.png"):
        train(tmp_path / "run", f"data.real={images}", "batch_size=5")
    assert "bad.png" in (tmp_path / "run/bad_images.csv").read_text()
    assert (tmp_path / "run/run.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step"):
        train(tmp_path / "run", "optimizer.lr=1e30")
    names = (tmp_path / "run/not_finite.txt").read_text().splitlines()
    assert len(names) == 8
    assert all(Path(name).suffix for name in names)
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["data.real=nowhere"], DataError, "nowhere"),
        (["memory_path=x.pth"], ConfigError, "memory_path: phase=memory does not use it"),
        (["phase.init=kmeans", "phase.slots=40000"], DataError, "too few for 40000 prototypes"),
        (["data.real=[]"], DataError, "no"),
        (["backbone.path=null", "backbone=dinov3_b"], ConfigError, "backbone.path: not given"),
        (["phase.init=random"], ConfigError, "phase.init must be one of"),
        (["phase.epochs=0"], ConfigError, "phase.epochs must be at least 1"),
        (["module.loss_form=both"], ConfigError, "loss_form must be one of"),
        (["optimizer.lr=-1"], ConfigError, "Invalid learning rate"),
        (["phase.top_k=49"], ConfigError, "top_k must be between 1 and the 48 slots"),
        (["trainer.precision=16-true"], ConfigError, r"trainer\.precision"),
        (["batch_size=0"], ConfigError, "batch_size must be at least 1"),
        (["phase.feature_cache=features"], ConfigError, r"phase\.feature_cache: .* add augment=fixed"),
        (
            ["phase.feature_cache=features", "augment=fixed", "trainer.devices=2", "trainer.strategy=ddp"],
            ConfigError,
            r"phase\.feature_cache: .* make it first with trainer\.devices=1",
        ),
    ],
)
def test_bad_settings_write_nothing(tmp_path: Path, change: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path / "run", *change)
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_not_taken(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(output, "phase.epochs=1")
    (output / "run.json").unlink()
    (output / "last.ckpt").write_bytes(b"no state")
    with pytest.raises(CheckpointError, match=r"resume: .* is no PyTorch checkpoint"):
        train(output, "phase.epochs=1", "resume=true")
    assert (output / "config.yaml").exists()


def no_decoding(patch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("an image was decoded")

    patch.setattr("mirror_pl.data.training.decode", refuse)


def test_kept_features_give_the_same_bank_and_nothing_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("augment=fixed", "optimizer.lr=1e-3", "phase.init=tokens")
    cached = (*more, f"phase.feature_cache={tmp_path / 'features'}")
    plain = train(tmp_path / "plain", *more)
    first = train(tmp_path / "first", *cached)
    assert equal(bank_of(first), bank_of(plain))
    assert "37 images x 200 tokens x 32 x 4 bytes = 0.9 MB" in capsys.readouterr().out
    no_decoding(monkeypatch)
    assert equal(bank_of(train(tmp_path / "second", *cached, "num_workers=2")), bank_of(plain))
    assert bank_of(train(tmp_path / "third", *cached, "phase.slots=24"))["memory"].shape == (24, 32)
    assert len(list((tmp_path / "features").iterdir())) == 1
    with pytest.raises(AssertionError, match="was decoded"):  # other features
        train(tmp_path / "fourth", *cached, "phase.drop_registers=true")
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_kept_features_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("augment=fixed", "optimizer.lr=1e-3", f"phase.feature_cache={tmp_path / 'features'}")
    whole = train(tmp_path / "whole", *more)
    no_decoding(monkeypatch)
    with stopped_after_saves(monkeypatch):
        train(tmp_path / "run", *more)
    assert equal(bank_of(train(tmp_path / "run", *more, "resume=true")), bank_of(whole))


def test_kept_features_know_the_images_that_could_not_be_read(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted(IMAGES.iterdir())[:9]):
        (images / f"{number}.jpg").write_bytes(path.read_bytes())
    (images / "bad.png").write_bytes(b"no image")
    (images / "cut.jpg").write_bytes((images / "0.jpg").read_bytes()[:-200])
    more = ("augment=fixed", f"data.real={images}", "batch_size=5")
    cached = (*more, f"phase.feature_cache={tmp_path / 'features'}")
    for name, settings in {"plain": more, "cached": cached}.items():
        with pytest.raises(IncompleteRunError, match="2 images could not be read"):
            train(tmp_path / name, *settings)
    assert (tmp_path / "cached/bad_images.csv").read_text() == (tmp_path / "plain/bad_images.csv").read_text()
    assert equal(bank_of(tmp_path / "cached"), bank_of(tmp_path / "plain"))


def test_a_damaged_feature_cache_is_named(tmp_path: Path) -> None:
    more = ("augment=fixed", "phase.epochs=1", f"phase.feature_cache={tmp_path / 'features'}")
    train(tmp_path / "first", *more)
    (folder,) = (tmp_path / "features").iterdir()
    with (folder / "tokens.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=rf"{folder.name} is damaged .* delete that folder"):
        train(tmp_path / "second", *more)
    assert not (tmp_path / "second").exists()


@pytest.mark.slow  # each start takes ten seconds
def test_killed_at_any_moment(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "mirror_pl.train", *overrides(output, "optimizer.lr=1e-3")]
    assert run_with_kills(command, output, (0.0, 0.15, 0.4, 0.05, 0.7)) >= 2
    assert equal(bank_of(output), bank_of(trained))


@pytest.mark.slow  # three processes that start anew
def test_two_processes_agree_with_one(trained: Path, tmp_path: Path) -> None:
    """The same global batches, shared out: the same weights, but for the order of float additions."""
    output = tmp_path / "run"
    more = ("optimizer.lr=1e-3", "trainer.devices=2", "trainer.strategy=ddp")
    command = [sys.executable, "-m", "mirror_pl.train", *overrides(output, *more)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=240)
    for name, tensor in bank_of(output).items():
        torch.testing.assert_close(tensor, bank_of(trained)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow  # two processes that start anew
def test_two_processes_read_what_one_has_kept(tmp_path: Path) -> None:
    more = ("augment=fixed", "optimizer.lr=1e-3", f"phase.feature_cache={tmp_path / 'features'}")
    alone = train(tmp_path / "alone", *more)
    several = overrides(tmp_path / "run", *more, "trainer.devices=2", "trainer.strategy=ddp")
    command = [sys.executable, "-m", "mirror_pl.train", *several]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=240)
    for name, tensor in bank_of(tmp_path / "run").items():
        torch.testing.assert_close(tensor, bank_of(alone)[name], rtol=1e-3, atol=1e-4)
