"""Heads that share a frozen backbone: it runs once, and each run folder is what the head's own run would have written."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from detector_files import save_checkpoint
from golden_set import SMALL

from mirror_pl.config.command import compose
from mirror_pl.detectors import MirrorDetector, load_detector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.several_heads import SeveralHeads
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import report, robustness
from mirror_pl.reports import RunFolder


def head(number: int) -> MirrorDetector:
    """The golden detector with another head."""
    detector = load_detector(SMALL.checkpoint)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in detector.head.parameters():
            parameter += 0.05 * number * torch.randn(parameter.shape, generator=generator)
    return detector


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("heads")
    paths = [folder / f"head{number}.ckpt" for number in range(3)]
    for number, path in enumerate(paths):
        save_checkpoint(path, head(number), backbone=None, training={})
    return paths


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that backbones are asked for."""
    asked: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, pixels: torch.Tensor) -> Any:
        asked.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(Backbone, "forward", counted)
    return asked


def arguments(output: Path, checkpoint: Path, *more: str) -> list[str]:
    return [
        "benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={checkpoint}", f"output_dir={output}",
        "trainer.accelerator=cpu", "num_workers=0", "data.index_cache=null", *more,
    ]  # fmt: skip


def evaluate(output: Path, checkpoint: Path, *more: str) -> Path:
    evaluation.run(compose("eval", arguments(output, checkpoint, *more)))
    return output


def table(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "predictions.parquet").to_pylist()


def test_verdicts_are_those_of_each_alone(calls: list[int]) -> None:
    pixels = SMALL.pixels()[:4]
    with torch.inference_mode():
        alone = [head(number)(pixels) for number in range(3)]
        calls.clear()
        together = SeveralHeads([head(number) for number in range(3)])(pixels)
        assert calls == [4], "once for all"
    for number, verdict in enumerate(alone):
        assert torch.equal(together.logit[:, number], verdict.logit)
        assert torch.equal(together.p_fake[:, number], verdict.p_fake)
    assert not torch.equal(alone[0].logit, alone[1].logit)


def test_what_does_not_share_is_refused() -> None:
    other = head(1)
    with torch.no_grad():
        next(other.backbone.parameters())[0] += 1e-3
    with pytest.raises(ConfigError, match="heads: the backbone of head 2 is not that of the first"):
        SeveralHeads([head(0), other])
    shifted = head(1)
    shifted.spec = type(shifted.spec)(align_quality=90)
    with pytest.raises(ConfigError, match="heads: the recipe of head 2"):
        SeveralHeads([head(0), shifted])


@pytest.mark.parametrize("crops", ["center", pytest.param("five", marks=pytest.mark.slow)])
def test_run_folders_are_those_of_each_alone(files: list[Path], calls: list[int], crops: str, tmp_path: Path) -> None:
    more = [f"crops={crops}", "batch_size=10"]
    alone = [evaluate(tmp_path / file.stem, file, *more) for file in files]
    single = sum(calls) // 3
    calls.clear()
    together = evaluate(tmp_path / "together", files[0], *more, f"heads=[{files[1]},{files[2]}]")
    assert sum(calls) == single
    folders = [together, together / "heads" / "1-head1", together / "heads" / "2-head2"]
    for folder, expected, file in zip(folders, alone, files, strict=True):
        assert table(folder) == table(expected)
        assert json.loads((folder / "metrics.json").read_text()) == json.loads((expected / "metrics.json").read_text())
        facts, own = (json.loads((each / "run.json").read_text()) for each in (folder, expected))
        assert facts["checkpoint"] == own["checkpoint"]
        assert facts["config"]["checkpoint"] == str(file)
        assert facts["detector"] == own["detector"]
    report.run(compose("report", [f"runs=[{together}]", f"output_dir={tmp_path / 'report'}", "replicates=10"]))
    assert len((tmp_path / "report" / "comparisons.csv").read_text().splitlines()) == 1 + 3, "each with each"


def test_of_several_heads_the_first_is_repeated(
    files: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    original = evaluate(tmp_path / "original", files[0], f"heads=[{files[1]}]")
    cfg = compose("eval", [f"repeat={original}", f"output_dir={tmp_path / 'again'}"])
    evaluation.run(cfg, {"repeat", "output_dir"})
    assert "scores are the same to the bit" in capsys.readouterr().out
    assert not (tmp_path / "again" / "heads").exists()


@pytest.mark.slow
def test_a_suite_of_several_heads(files: list[Path], tmp_path: Path) -> None:
    def run(output: Path, checkpoint: Path, *more: str) -> Path:
        cfg = compose("robustness", [*arguments(output, checkpoint, "replicates=10", "batch_size=1"), *more])
        cfg.suite = {"name": "a", "title": "A", "source": "ours", "families": {"jpeg": ["jpeg_50"]}}
        robustness.run(cfg)
        return output

    together = run(tmp_path / "together", files[0], f"heads=[{files[1]}]")
    for folder, file in ((together, files[0]), (together / "heads" / "1-head1", files[1])):
        expected = run(tmp_path / file.stem, file)
        for name in ("conditions.parquet", "robustness.json"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_run_that_stops_between_heads_goes_on(files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more = [f"heads=[{files[1]},{files[2]}]", "save_every_s=0"]
    expected = evaluate(tmp_path / "whole", files[0], *more)
    complete, done = RunFolder.complete, []

    def complete_one(self: RunFolder, facts: Any) -> None:
        if done:
            raise KeyboardInterrupt
        complete(self, facts)
        done.append(self.path)

    monkeypatch.setattr(RunFolder, "complete", complete_one)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "stopped", files[0], *more)
    assert done == [tmp_path / "stopped" / "heads" / "1-head1"]
    assert not (tmp_path / "stopped" / "run.json").exists()
    monkeypatch.undo()
    evaluate(tmp_path / "stopped", files[0], *more, "resume=true")
    for name in ("", "heads/1-head1", "heads/2-head2"):
        assert table(tmp_path / "stopped" / name) == table(expected / name)


@pytest.mark.slow
def test_a_stopped_suite_of_several_heads_says_how_many_images_it_had(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Images, not scores: each has one per condition and head."""
    more = [f"heads=[{files[1]}]", "save_every_s=0", "replicates=10"]
    monkeypatch.setattr(RunFolder, "complete", lambda *_: 1 / 0)
    for resume in ("false", "true"):
        cfg = compose("robustness", [*arguments(tmp_path / "out", files[0], *more), f"resume={resume}"])
        cfg.suite = {"name": "a", "title": "A", "source": "ours", "families": {"jpeg": ["jpeg_50"]}}
        with contextlib.suppress(ZeroDivisionError):
            robustness.run(cfg)
        monkeypatch.undo()
    count = len({row["id"] for row in table(tmp_path / "out")})
    for folder in (tmp_path / "out", tmp_path / "out" / "heads" / "1-head1"):
        assert json.loads((folder / "run.json").read_text())["resumed_after"] == count
    assert capsys.readouterr().out.count(f"Resumed: {count} of {count} images") == 2


def test_bad_images_are_so_for_each(files: list[Path], tmp_path: Path) -> None:
    shutil.copytree(SMALL.data_root / "WildRF", tmp_path / "data" / "WildRF")
    (tmp_path / "data/WildRF/test/facebook/0_real/zz.jpg").write_text("no image")
    more = ["max_bad_fraction=1", f"data_root={tmp_path / 'data'}"]
    folder = evaluate(tmp_path / "out", files[0], f"heads=[{files[1]}]", *more)
    bad = [(each / "bad_images.csv").read_text() for each in (folder, folder / "heads" / "1-head1")]
    assert bad[0] == bad[1]
    assert "zz.jpg" in bad[0]


def test_refused(files: list[Path], tmp_path: Path) -> None:
    from mirror_pl.config.early import check_early

    with pytest.raises(CheckpointError, match=r"heads: .*none\.ckpt does not exist"):
        check_early(compose("eval", arguments(tmp_path / "out", files[0], f"heads=[{tmp_path / 'none.ckpt'}]")))
    with pytest.raises(ConfigError, match="heads: calibration, repeat and quantise are of one detector"):
        evaluate(tmp_path / "out", files[0], f"heads=[{files[1]}]", "calibration=x.json")
    assert not (tmp_path / "out").exists()
