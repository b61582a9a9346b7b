"""What somebody who knows Lightning does with this project's parts, with nothing but public names and Lightning's Trainer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from golden_set import SMALL
from interruptions import Stopped
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.tuner import Tuner

import mirror_pl
from mirror_pl import BenchmarkDataModule, DetectorModule, TrainingDataModule, load_detector
from mirror_pl.data import benchmark
from mirror_pl.errors import CheckpointError, ConfigError, DataError
from mirror_pl.locate import CHECKOUT

QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    return


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    return pl.Trainer(callbacks=list(callbacks), **(QUIET | {"enable_checkpointing": False} | settings))


def module(**settings: Any) -> DetectorModule:
    return DetectorModule(load_detector(SMALL.checkpoint, merge=False), **settings)


def wildrf(**settings: Any) -> BenchmarkDataModule:
    return BenchmarkDataModule("wildrf", SMALL.data_root, num_workers=0, **settings)


def training(**settings: Any) -> TrainingDataModule:
    known = {"root": SMALL.data_root / "WildRF", "batch_size": 4, "num_workers": 0}
    return TrainingDataModule(**(known | settings))


def scores_of(one: DetectorModule) -> dict[int, float]:
    batches: Any = trainer().predict(one, wildrf())
    return {int(i): float(p) for batch in batches for i, p in zip(batch["id"], batch["p_fake"], strict=True)}


def test_the_public_names_are_all_there_is() -> None:
    names = [
        "BenchmarkDataModule",
        "DetectorModule",
        "MemoryBankModule",
        "TrainingDataModule",
        "__version__",
        "explain",
        "load_detector",
    ]
    assert sorted(dir(mirror_pl)) == sorted(names) == sorted(mirror_pl.__all__)
    assert all(getattr(mirror_pl, name) is not None for name in names)


def test_test_validate_and_predict_give_the_published_figures() -> None:
    (figures,) = trainer().test(module(), wildrf(), verbose=False)
    report = {row["Dataset"]: float(row["Bal_Acc"]) for row in SMALL.report("WildRF")}
    expected = {"test/bal_acc": report.pop("MEAN"), **{f"test/bal_acc/{name}": value for name, value in report.items()}}
    assert figures == pytest.approx(expected, abs=1e-7), "what Lightning logs is float32"
    (validated,) = trainer().validate(module(), wildrf(), verbose=False)
    assert {name.replace("val/", "test/"): value for name, value in validated.items()} == figures
    data = wildrf()
    golden = {row["path"]: float(row["prob_fake"]) for row in SMALL.rows()}
    found = scores_of(module())
    assert sorted(found) == list(range(len(data.index)))
    for image, p_fake in found.items():
        assert p_fake == pytest.approx(golden[data.index.paths[image]], abs=1e-4)


@pytest.mark.parametrize(("scored_s", "expected"), [(1.0, 1), (1e-3, 13), (1e-6, 16)])
def test_decoding_processes_keep_up_with_the_detector(
    scored_s: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding takes 10 ms here, so that a detector of 1 ms wants ten, and a quarter more; there are 16 cores."""
    clock = iter(number // 2 * 1.0 + number % 2 * 0.01 for number in range(1000))
    monkeypatch.setattr(benchmark, "usable_cores", lambda: 16)
    monkeypatch.setattr(DetectorModule, "seconds_per_crop", lambda self, together: scored_s)
    data, loaders = BenchmarkDataModule("wildrf", SMALL.data_root), []
    made = data.test_dataloader

    def watched() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
            loaders.append(made())
        workers, loaders[0].num_workers, loaders[0].prefetch_factor = loaders[0].num_workers, 0, None
        assert workers == expected
        return loaders[0]

    monkeypatch.setattr(data, "test_dataloader", watched)
    trainer(limit_test_batches=1).test(module(), data, verbose=False)
    assert loaders


def test_how_long_a_crop_takes_is_measured() -> None:
    one = module()
    trainer(limit_test_batches=1).test(one, wildrf(), verbose=False)
    before = torch.get_rng_state()
    assert 1e-6 < one.seconds_per_crop(4) < 10
    assert torch.equal(before, torch.get_rng_state())


def test_the_first_call_is_no_measure_of_how_long_a_crop_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it takes seconds, after which one process would decode for a detector that wants sixteen."""
    one = module()
    trainer(limit_test_batches=1).test(one, wildrf(), verbose=False)
    waits, score = iter([1.0]), one.scorer

    def slow_at_first(pixels: torch.Tensor) -> Any:
        time.sleep(next(waits, 0.0))
        return score(pixels)

    monkeypatch.setattr(one, "scorer", slow_at_first)
    assert one.seconds_per_crop(4) < 0.5


def test_a_score_that_is_not_finite_counts_in_no_figure() -> None:
    """`nan > 0` is False, which would be a decision for "real"."""
    broken = module()
    score, lost = broken.scorer, []

    def scorer(pixels: torch.Tensor) -> Any:
        verdict = score(pixels)
        logit = torch.where(torch.arange(len(pixels)) % 3 == 0, torch.nan, verdict.logit)
        lost.append(logit.isnan().sum())
        return verdict._replace(logit=logit)

    broken.scorer = scorer  # type: ignore[assignment]
    data = wildrf(batch_size=5)
    (figures,) = trainer().test(broken, data, verbose=False)
    assert sum(lost)
    batches: Any = trainer().predict(broken, wildrf(batch_size=5))
    ids = np.concatenate([batch["id"].numpy() for batch in batches])
    logits = np.concatenate([batch["logit"].numpy() for batch in batches])
    kept = np.isfinite(logits)
    right = (logits > 0) == (data.index.labels[ids] == 1)
    for name, member in zip(data.index.subsets, data.index.members(), strict=True):
        here = kept & member[data.index.group_ids[ids]]
        per_class = [right[here & (data.index.labels[ids] == label)] for label in (0, 1)]
        if all(map(len, per_class)):
            assert figures[f"test/bal_acc/{name}"] == pytest.approx(np.mean([part.mean() for part in per_class]), abs=1e-6)


@pytest.mark.slow
def test_fit_then_load_gives_the_same_scores(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/bal_acc", mode="max", save_last=True, every_n_train_steps=2)
    train = training(validation={"mine": SMALL.data_root / "WildRF"})
    fitted = module(label_smoothing=0.2, seed=3)
    whole = trainer(best, max_epochs=2, accumulate_grad_batches=2, enable_checkpointing=True, num_sanity_val_steps=1)
    whole.fit(fitted, train, ckpt_path="last")
    assert {"val/bal_acc", "val/bal_acc/mine"} <= set(whole.callback_metrics)
    whole.save_checkpoint("end.ckpt")
    again = DetectorModule.load_from_checkpoint("end.ckpt")
    assert (again.label_smoothing, again.seed) == (0.2, 3)
    assert DetectorModule.load_from_checkpoint("end.ckpt", label_smoothing=0.0).label_smoothing == 0
    expected = scores_of(fitted)
    assert scores_of(again) == expected
    assert scores_of(DetectorModule(load_detector("end.ckpt", merge=False))) == expected, "it is a file like any other"
    (tested,) = trainer().test(module(), wildrf(), ckpt_path="end.ckpt", verbose=False)
    assert tested == trainer().test(again, wildrf(), verbose=False)[0]
    assert scores_of(module()) != expected
    content = torch.load("end.ckpt", weights_only=True)
    assert {"pytorch-lightning_version", "loops", "mirror_pl"} <= set(content)


def test_a_checkpoint_goes_on_with_the_same_data_only(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="mid", every_n_train_steps=3)
    whole = trainer(saving, max_epochs=1, enable_checkpointing=True)
    whole.fit(module(), training())
    whole.save_checkpoint("end.ckpt")
    with pytest.raises(DataError, match="the checkpoint was made with another batch_size, seed"):
        trainer(max_epochs=2).fit(module(), training(batch_size=3, seed=1), ckpt_path="mid.ckpt")
    with pytest.raises(DataError, match="the checkpoint was made with another seed"):
        trainer(max_epochs=2).fit(module(), training(batch_size=3, seed=1), ckpt_path="end.ckpt")
    rest = trainer(max_epochs=2)
    rest.fit(module(), training(batch_size=3), ckpt_path="end.ckpt")
    assert rest.global_step == 5 + 7, "with other batches, from the second epoch on"
    other = DetectorModule(load_detector("miniature", merge=False))
    with pytest.raises(CheckpointError, match="does not fit this detector"):
        trainer(max_epochs=2).fit(other, training(), ckpt_path="end.ckpt")


@pytest.mark.slow
def test_the_usual_settings_and_callbacks_work(tmp_path: Path) -> None:
    """Each does what it does for everybody: here it is enough that none is refused, and that training ends where it should."""
    train = training(validation={"mine": SMALL.data_root / "WildRF"})
    for settings, steps in (
        ({"fast_dev_run": 2}, 2),
        ({"limit_train_batches": 2, "max_epochs": 2, "limit_val_batches": 1}, 4),
        ({"max_steps": 3, "max_epochs": 9}, 3),
        ({"overfit_batches": 1, "max_epochs": 2}, 2),
        ({"max_epochs": 1, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0, "precision": "bf16-mixed"}, 3),
        ({"max_epochs": 1, "val_check_interval": 2}, 5),
    ):
        run = trainer(**settings)
        run.fit(module(), train)
        assert run.global_step == steps, settings
    stopping = EarlyStopping("val/bal_acc", mode="max", patience=1)
    run = trainer(stopping, LearningRateMonitor(), max_epochs=9, logger=True)
    run.fit(module(optimizer=lambda groups: torch.optim.SGD(groups, 0.0)), train)
    assert run.current_epoch == 2, "nothing is learnt, so the second validation is no better"
    with pytest.raises(ConfigError, match="give the Trainer max_epochs or max_steps"):
        trainer(max_epochs=-1).fit(module(), train)


@pytest.mark.slow
def test_lightnings_tuner_finds_batch_size_and_learning_rate() -> None:
    data, run = training(batch_size=2), trainer(max_epochs=1)
    assert Tuner(run).scale_batch_size(module(), datamodule=data, max_trials=2, steps_per_trial=1) == data.batch_size == 4
    tuned = module()
    found = Tuner(run).lr_find(tuned, datamodule=data, num_training=10, min_lr=1e-6, max_lr=1e-2)
    assert found is not None
    assert len(found.results["loss"]) > 1
    assert tuned.lr == found.suggestion(), "none, where the loss does not fall"
    tuned.lr = 0.01
    used: list[float] = []
    optimizer = tuned.configure_optimizers

    def spy() -> Any:
        made: Any = optimizer()
        used.extend(group["initial_lr"] for group in made["optimizer"].param_groups)
        return made

    tuned.configure_optimizers = spy  # type: ignore[method-assign]
    trainer(max_epochs=1).fit(tuned, data)
    assert used == [0.01, 0.01]


@pytest.mark.slow
def test_an_average_of_the_weights_is_what_is_saved_and_is_gone_on_with(tmp_path: Path) -> None:
    """Lightning's own callback: `state_dict` holds the average, and a resumed run ends as one that was not stopped."""

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 7:
                raise Stopped

    def run(*callbacks: pl.Callback, ckpt_path: str | None = None) -> Any:
        averaging = EMAWeightAveraging(decay=0.5, use_buffers=False)
        one = trainer(averaging, *callbacks, max_epochs=2, enable_checkpointing=True)
        one.fit(module(reference_batch=None), training(), ckpt_path=ckpt_path)
        one.save_checkpoint("end.ckpt")
        return torch.load("end.ckpt", weights_only=True)["state_dict"]

    whole = run()
    with pytest.raises(Stopped):
        run(ModelCheckpoint("part", every_n_train_steps=3, save_last=True, save_top_k=0), Stop())
    content = torch.load("part/last.ckpt", weights_only=True)
    assert content["global_step"] == 6
    current = content["current_model_state"]
    assert current.keys() == content["state_dict"].keys()
    assert any(not torch.equal(content["state_dict"][name], tensor) for name, tensor in current.items())
    resumed = run(ckpt_path="part/last.ckpt")
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())


def test_a_data_module_without_a_recipe_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="no recipe says how images become pixels"):
        wildrf().test_dataloader()
    spec = load_detector(SMALL.checkpoint).spec
    assert len(list(wildrf(spec=spec, batch_size=7).test_dataloader())) == 3
    with pytest.raises(ConfigError, match="Did you mean wildrf"):
        BenchmarkDataModule("wildfr")


TWO = """
import sys, warnings, logging, torch, lightning.pytorch as pl
warnings.filterwarnings("ignore")
from mirror_pl import BenchmarkDataModule, DetectorModule, load_detector
quiet = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
module = DetectorModule(load_detector(sys.argv[1]))
data = BenchmarkDataModule("wildrf", sys.argv[2], num_workers=0, batch_size=2)
two = pl.Trainer(devices=2, strategy="ddp", **quiet)
(figures,) = two.test(module, data, verbose=False)
batches = two.predict(module, data)
torch.save({"figures": figures, "batches": batches}, f"{sys.argv[3]}/{two.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_with_a_default_trainer_score_every_image_once(tmp_path: Path) -> None:
    """Lightning's own sampler would pad and repeat."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, str(script), str(SMALL.checkpoint), str(SMALL.data_root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    batches = [batch for share in shares for batch in share["batches"]]
    assert sorted(int(i) for batch in batches for i in batch["id"]) == list(range(21))
    plain = DetectorModule(load_detector(SMALL.checkpoint))
    (figures,) = trainer().test(plain, wildrf(batch_size=2), verbose=False)
    assert shares[0]["figures"] == shares[1]["figures"] == pytest.approx(figures, abs=1e-9)
    alone: Any = trainer().predict(plain, wildrf(batch_size=2))
    expected = {int(i): float(x) for batch in alone for i, x in zip(batch["id"], batch["logit"], strict=True)}
    for batch in batches:
        assert [expected[int(i)] for i in batch["id"]] == pytest.approx(batch["logit"].tolist(), abs=1e-6)


def test_the_examples_of_the_page_run_as_written(tmp_path: Path) -> None:
    """docs/lightning.md, with the golden set in place of what a user has, and a CPU in place of four GPUs."""
    page = (CHECKOUT / "docs/lightning.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    here = {
        '"checkpoint-h-cur.pth"': repr(str(SMALL.checkpoint)),
        '"dinov3-huge"': repr(str(SMALL.backbone_path)),
        '"genimage"': '"wildrf"',
        '"/data"': f'"{SMALL.data_root}", num_workers=0',
        '"/data/mine"': f'"{SMALL.data_root}/WildRF", num_workers=0',
        '"/data/mine/val"': f'"{SMALL.data_root}/WildRF"',
        '"/data/coco"': f'"{SMALL.data_root}/WildRF", num_workers=0',
        'devices=4, precision="bf16-mixed"': 'accelerator="cpu"',
        "batch_size=64": "batch_size=4",
        "batch_size=128": "batch_size=4",
        "slots=4096": "slots=48, heads=4, top_k=6",
        "every_n_train_steps=100": "every_n_train_steps=2",
        "max_epochs=5": "max_epochs=2",
        "max_epochs=100": "max_epochs=1",
    }
    for theirs, ours in here.items():
        assert theirs in code, theirs
        code = code.replace(theirs, ours)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["figures"]["test/bal_acc"] == pytest.approx(scope["again"]["test/bal_acc"])


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("16-true", torch.float16)])
def test_half_weights_through_the_trainer_are_those_of_loading(precision: Any, dtype: torch.dtype) -> None:
    """Lightning converts the whole module, and torch's default dtype during a step: neither reaches bank and head."""
    found = DetectorModule(load_detector("miniature"))
    batches: Any = trainer(precision=precision).predict(found, wildrf(batch_size=4))
    kept = {name: weight.dtype for name, weight in found.detector.state_dict().items()}
    assert kept == {name: dtype if name.startswith("backbone.") else torch.float32 for name in kept}
    data = wildrf()
    pictures = [data.index.data_root / path for path in data.index.paths]
    loaded = load_detector("miniature", dtype=dtype).predict(pictures, batch_size=4, precision=precision)
    logits = torch.cat([batch["logit"] for batch in batches])
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.tensor([one.logit for one in loaded]), atol=1e-5, rtol=0)
    assert found.detector.double().head.classifier[0].weight.dtype == torch.float64
