"""A sweep's jobs share a detector where they ask for the same one, and for nothing else."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from detector_files import save_checkpoint
from golden_set import SMALL
from safetensors.torch import load_file, save_file

import mirror_pl.eval
from mirror_pl.config import build_detector as build
from mirror_pl.config.command import compose
from mirror_pl.config.schema import EvalSettings, read_settings
from mirror_pl.detectors import MirrorDetector, load_detector
from mirror_pl.detectors.checkpoint import BackboneSource
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.jobs.eval import run
from mirror_pl.locate import miniature_dir


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[MirrorDetector]]:
    """What was loaded since the test began, when no detector was kept; each load finds the ones before gone."""
    loaded: list[weakref.ref[MirrorDetector]] = []

    def load(*args: Any, **kwargs: Any) -> MirrorDetector:
        assert not [detector for detector in loaded if detector() is not None], "two detectors in memory at once"
        detector = load_detector(*args, **kwargs)
        loaded.append(weakref.ref(detector))
        return detector

    monkeypatch.setattr(build, "_kept", None)
    monkeypatch.setattr(build, "load_detector", load)
    return loaded


def detector_of(*overrides: str) -> tuple[MirrorDetector, bool]:
    cfg = compose("eval", overrides)
    return build.build_detector(read_settings(cfg, EvalSettings), cfg.trainer.precision)


def scores(folder: Path) -> list[float]:
    return pq.read_table(folder / "predictions.parquet")["logit"].to_pylist()


def test_a_sweep_loads_once(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        f"checkpoint={SMALL.checkpoint}",
        f"data_root={SMALL.data_root}",
        "trainer.accelerator=cpu",
        "num_workers=0",
    ]
    monkeypatch.setattr(
        sys, "argv", ["eval", "-m", *overrides, "benchmark=wildrf,chameleon", f"output_dir={tmp_path}/sweep"]
    )
    mirror_pl.eval.main()
    assert len(loads) == 1
    assert capsys.readouterr().out.count("The detector is that of the job before") == 1
    for benchmark in ("wildrf", "chameleon"):
        build._kept = None
        gc.collect()
        alone = tmp_path / benchmark
        run(compose("eval", [*overrides, f"benchmark={benchmark}", f"output_dir={alone}"]))
        (job,) = (tmp_path / "sweep").glob(f"{benchmark}-*")
        assert scores(alone) == scores(job)
    assert len(loads) == 3


@pytest.mark.slow
def test_a_job_that_rounds_the_weights_leaves_none_of_it(loads: list[Any], tmp_path: Path) -> None:
    def logits(name: str, *overrides: str) -> list[float]:
        run(compose("eval", ["trainer.accelerator=cpu", "num_workers=0", f"output_dir={tmp_path / name}", *overrides]))
        return scores(tmp_path / name)

    exact = logits("before")
    assert logits("rounded", "trainer.precision=bf16-true") != exact
    assert len(loads) == 2
    assert logits("after") == exact
    assert len(loads) == 3


def test_half_weights_in_8_bits_are_loaded_so_and_handed_on(loads: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    images = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={miniature_dir() / 'detector'}"]
    same = [*images, "trainer.accelerator=cpu", "num_workers=0", "trainer.precision=bf16-true", "quantise=int8"]
    for name in ("one", "two"):
        run(compose("eval", [*same, f"output_dir={tmp_path / name}"]))
        facts = json.loads((tmp_path / name / "run.json").read_text())
        assert facts["precision"] == "bf16-true"
        assert facts["quantised"]["kind"] == facts["config"]["quantise"] == "int8"
        assert (facts["quantised"]["pictures"], facts["quantised"]["flipped"]) == (32, 0)
    assert len(loads) == 1
    assert scores(tmp_path / "one") == scores(tmp_path / "two")
    assert loads[0]().head.classifier[0].weight.dtype == torch.float32
    assert not detector_of(*same[:-1])[1]
    assert len(loads) == 2


def test_compiled_code_is_kept_where_it_is_said_and_only_if_something_is_compiled(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "torch's own")
    monkeypatch.setattr(MirrorDetector, "compile_backbone", lambda self: None)  # which takes long
    cache = tmp_path / "outputs" / "compiled"
    assert not loads
    detector_of(f"compile_cache={cache}")
    assert (cache.exists(), os.environ["TORCHINDUCTOR_CACHE_DIR"]) == (False, "torch's own")
    detector_of("compile=true", f"compile_cache={cache}")
    assert (cache.is_dir(), os.environ["TORCHINDUCTOR_CACHE_DIR"]) == (True, str(cache))
    (tmp_path / "file").touch()
    detector_of()  # so that none that is compiled already is handed on
    with pytest.raises(ConfigError, match=r"compile_cache: .*file.* cannot be written: .*; give compile_cache=FOLDER"):
        detector_of("compile=true", f"compile_cache={tmp_path / 'file' / 'x'}")


@pytest.mark.parametrize(
    "change",
    [
        lambda detector: detector.to(torch.bfloat16),
        lambda detector: setattr(detector, "head", torch.nn.Identity()),
        lambda detector: setattr(detector.head, "classifier", torch.nn.Sequential(detector.head.classifier)),
    ],
    ids=["dtype", "another module", "a wrapped module"],
)
def test_a_changed_detector_is_not_handed_on(loads: list[Any], change: Callable[[MirrorDetector], None]) -> None:
    first, reused = detector_of()
    assert not reused
    change(first)
    del first
    again, reused = detector_of()
    assert not reused
    assert again.head.classifier[0].weight.dtype == torch.float32


def test_modes_are_not_handed_on(loads: list[Any]) -> None:
    first, _ = detector_of()
    first.requires_grad_(True).train()
    second, reused = detector_of()
    assert reused
    assert second is first
    assert not [module for module in second.modules() if module.training]
    assert not [parameter for parameter in second.parameters() if parameter.requires_grad]


@pytest.mark.slow
def test_other_settings_or_files_load_anew(loads: list[Any], tmp_path: Path) -> None:
    checkpoint, bank = tmp_path / "x.pth", tmp_path / "bank.pth"
    shutil.copy(SMALL.checkpoint, checkpoint)
    shutil.copy(SMALL.memory_path, bank)
    same = f"checkpoint={checkpoint}"
    for overrides, reused in (
        ((same,), False),
        ((same,), True),
        ((same, "batch_size=3", "benchmark=wildrf", "trainer.precision=bf16-mixed"), True),
        ((f"checkpoint={tmp_path}/../{tmp_path.name}/x.pth",), True),  # the same file
        ((same, "detector.merge_lora=false"), False),
        ((same,), False),  # one is kept, not one of each
        ((same, f"memory_path={bank}"), False),
        ((same, f"memory_path={bank}"), True),
        ((same, "backbone=tiny"), False),
        ((same, f"backbone.path={SMALL.backbone_path}"), True),  # the same architecture
    ):
        assert detector_of(*overrides)[1] is reused, overrides
    os.utime(checkpoint, ns=(0, 0))
    assert not detector_of(same, "backbone=tiny")[1]
    replacement = tmp_path / "replacement.pth"
    shutil.copy(SMALL.checkpoint, replacement)
    os.utime(replacement, ns=(0, 0))  # the old size and time
    replacement.replace(checkpoint)
    assert not detector_of(same, "backbone=tiny")[1]
    checkpoint.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        detector_of(same, "backbone=tiny")
    assert build._kept is None


@pytest.mark.slow
def test_weights_outside_the_checkpoint_count(loads: list[Any], tmp_path: Path) -> None:
    """Which backbone a checkpoint without one was given is part of what was asked for."""
    first, second = (Path(shutil.copytree(SMALL.backbone_path, tmp_path / name)) for name in ("first", "second"))
    trained = load_detector(SMALL.checkpoint, merge=False)
    save_checkpoint(tmp_path / "x.ckpt", trained, backbone=BackboneSource.of(first), training={})
    same = f"checkpoint={tmp_path}/x.ckpt"
    for overrides, reused in (
        ((same,), False),
        ((same,), True),
        ((same, f"backbone.path={second}"), False),  # equal weights from elsewhere
        ((same, f"backbone.path={second}"), True),
    ):
        assert detector_of(*overrides)[1] is reused, overrides
    tensors = load_file(second / "model.safetensors")
    tensors[min(tensors)] += 1
    save_file(tensors, second / "model.safetensors")
    with pytest.raises(CheckpointError, match="another one than"):
        detector_of(same, f"backbone.path={second}")
    assert build._kept is None
    assert not detector_of(same)[1]
    shutil.rmtree(first)
    with pytest.raises(CheckpointError, match="holds no backbone weights"):
        detector_of(same)


def test_a_variant_that_the_checkpoint_is_not_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"detector=direct: .* holds a mirror, whose head looks at perplexity, residual, cls"
    ):
        detector_of(f"checkpoint={SMALL.checkpoint}", "detector=direct")
    assert build._kept is None
