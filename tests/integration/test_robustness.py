"""Perturbed evaluations: what `perturb=` gives is what a copy on the disk would, and a suite is all of its runs in one."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow.parquet as pq
import pytest
import yaml
from golden_set import FULL, SMALL, GoldenSet
from PIL import Image
from rich.console import Console
from runs import (
    KEYS,
    assert_equal_reports,
    free_port,
    golden_overrides,
    kill_all,
    report_of,
    results_of,
    start,
    wait_for_parts,
)  # fmt: skip

from mirror_pl.config.command import compose
from mirror_pl.data import BenchmarkDataModule
from mirror_pl.detectors import load_detector
from mirror_pl.errors import ConfigError
from mirror_pl.images import condition_of
from mirror_pl.images.perturb import parse_perturbation
from mirror_pl.images.suite import parse_suite
from mirror_pl.jobs import calibrate, predict, report, robustness
from mirror_pl.jobs import eval as evaluation
from mirror_pl.modules import DetectorModule
from mirror_pl.reports.robustness import print_robustness, read_result

CHAIN = ["random_crop_0.6", "gaussian_noise_0.05", "jpeg_30:80"]
FAMILIES = {"jpeg": ["jpeg_50"], "chain": [CHAIN]}
CONDITIONS = ["clean", "jpeg_50", "+".join(CHAIN), "format_align_none", "format_align_png", "format_align_all"]
QUICK = ["trainer.accelerator=cpu", "num_workers=0", "data.index_cache=null", "logger=none"]


@pytest.fixture
def suites(tmp_path: Path) -> str:
    """A folder of one's own with the suite in it, for commands."""
    folder = tmp_path / "configs" / "suite"
    folder.mkdir(parents=True)
    values = {"name": "small", "title": "Small", "source": "ours", "families": FAMILIES}
    (folder / "small.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return str(folder.parent)


def run_suite(output: Path, *more: str) -> Path:
    cfg = compose("robustness", [f"output_dir={output}", *QUICK, *golden_overrides(SMALL, "wildrf"), "replicates=50", *more])
    cfg.suite = {"name": "small", "title": "Small", "source": "ours", "families": FAMILIES}
    robustness.run(cfg)
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    return run_suite(tmp_path_factory.mktemp("suites") / "runs" / "whole")


def evaluate(output: Path, *more: str, golden: GoldenSet = SMALL, benchmark: str = "wildrf") -> Path:
    evaluation.run(compose("eval", [f"output_dir={output}", *QUICK, *golden_overrides(golden, benchmark), *more]))
    return output


def scores(folder: Path) -> dict[str, float]:
    table = pq.read_table(folder / "predictions.parquet")
    return dict(zip(table["path"].to_pylist(), table["logit"].to_pylist(), strict=True))


def conditions(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in pq.read_table(folder / "conditions.parquet").to_pylist():
        found.setdefault(row["condition"], {})[row["path"]] = row["logit"]
    return found


@pytest.mark.parametrize("identity", ["clean", "[]", "resize_1", "rotate_0+gaussian_noise_0"])
def test_an_identity_gives_the_golden_reports(identity: str, tmp_path: Path) -> None:
    for benchmark in SMALL.benchmarks:
        folder = evaluate(tmp_path / benchmark, f"perturb={identity}", benchmark=benchmark)
        assert_equal_reports(report_of(folder), SMALL.report(KEYS[benchmark]))


@pytest.mark.parametrize("golden", [SMALL, *(pytest.param(one, marks=pytest.mark.slow) for one in FULL)], ids=str)
def test_jpeg_50_is_the_files_recompressed(golden: GoldenSet, tmp_path: Path) -> None:
    """To the bit: pixels are equal, and so are the batches that they are scored in."""
    for benchmark in golden.benchmarks:
        copies = tmp_path / "data"
        for source in golden.data_root.rglob("*.*"):
            target = copies / source.relative_to(golden.data_root)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(source).convert("RGB").save(target.with_name(f"{target.name}.jpg"), "JPEG", quality=50)
        perturbed = scores(evaluate(tmp_path / benchmark, "perturb=jpeg_50", golden=golden, benchmark=benchmark))
        copied = scores(
            evaluate(tmp_path / f"{benchmark}-copied", f"data_root={copies}", golden=golden, benchmark=benchmark)
        )
        assert {f"{path}.jpg": logit for path, logit in perturbed.items()} == copied
        as_it_is = scores(evaluate(tmp_path / f"{benchmark}-clean", golden=golden, benchmark=benchmark))
        assert max(abs(as_it_is[path] - perturbed[path]) for path in as_it_is) > 0.01, "it does something"


def test_a_suite_is_all_of_its_runs_in_one(whole: Path, tmp_path: Path) -> None:
    """But for rounding: a batch has the conditions of an image in place of other images."""
    together = conditions(whole)
    assert list(together) == CONDITIONS
    for name, logits in together.items():
        setting = f"format_align={name[13:]}" if name.startswith("format") else f"perturb={name}"
        alone = scores(evaluate(tmp_path / name, setting))
        assert alone.keys() == logits.keys()
        assert max(abs(alone[path] - logits[path]) for path in alone) < 1e-4, name
    assert scores(whole) == together["clean"]
    result = read_result(whole, "a", "b")
    assert result is not None
    assert [one.name for one in result.scores.conditions] == CONDITIONS


@pytest.mark.slow
def test_workers_move_nothing(whole: Path, tmp_path: Path) -> None:
    assert results_of(run_suite(tmp_path / "out", "num_workers=2")) == results_of(whole)


@pytest.mark.slow
def test_kept_crops_move_nothing(whole: Path, tmp_path: Path) -> None:
    for name in ("filled", "read"):
        assert results_of(run_suite(tmp_path / name, f"cache_dir={tmp_path / 'cache'}")) == results_of(whole), name
    assert list((tmp_path / "cache").rglob("*.crops")), "all files are older than two seconds"


def test_batches_move_scores_by_rounding(whole: Path, tmp_path: Path) -> None:
    got = conditions(run_suite(tmp_path / "out", "batch_size=40"))
    for name, logits in conditions(whole).items():
        assert all(abs(got[name][path] - logit) < 1e-4 for path, logit in logits.items())


@pytest.mark.slow
def test_two_processes(suites: str, whole: Path, tmp_path: Path) -> None:
    expected = conditions(whole)
    process = start(
        command(suites, tmp_path / "two", "trainer.devices=2", "trainer.strategy=ddp"), MASTER_PORT=str(free_port())
    )
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    got = conditions(tmp_path / "two")
    assert list(got) == list(expected)
    for name, logits in expected.items():
        assert got[name].keys() == logits.keys()
        assert all(abs(got[name][path] - logit) < 1e-4 for path, logit in logits.items()), "threads move float32 sums"


def command(suites: str, output: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "mirror_pl.robustness", "--config-dir", suites, "suite=small", f"output_dir={output}", *QUICK,
        *golden_overrides(SMALL, "wildrf"), "replicates=50", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_suite_goes_on(suites: str, whole: Path, tmp_path: Path) -> None:
    more = ["save_every_s=0"]
    process = start(command(suites, tmp_path / "killed", *more))
    assert wait_for_parts(process, tmp_path / "killed")
    kill_all(process)
    assert not (tmp_path / "killed" / "run.json").exists(), "it was killed before its end"
    process = start(command(suites, tmp_path / "killed", *more, "resume=true"))
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "Resumed: " in printed
    assert results_of(tmp_path / "killed") == results_of(whole)


def test_the_clean_part_is_an_evaluation(whole: Path) -> None:
    folder = whole
    assert_equal_reports(report_of(folder), SMALL.report("WildRF"))
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["suite"], facts["conditions"], facts["condition"]) == ("small", CONDITIONS, None)
    metrics = json.loads((folder / "metrics.json").read_text())
    result = read_result(folder, "a", "b")
    assert result is not None
    clean = result.scores.conditions[0]
    assert clean.figures["bal_acc"].value == pytest.approx(metrics["mean"]["bal_acc"], abs=1e-12)


def test_the_table_cuts_no_number_off(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a screen of 80 columns, where the names of chains are long."""
    result = read_result(whole, "a", "b")
    assert result is not None
    print_robustness(result, Console(width=80))
    assert "…" not in capsys.readouterr().out


def test_lightnings_own_trainer_logs_each_condition(whole: Path) -> None:
    named = [condition_of(), condition_of("jpeg_50"), condition_of(CHAIN)]
    data = BenchmarkDataModule("wildrf", SMALL.data_root, num_workers=0, conditions=named)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (logged,) = trainer.test(DetectorModule(load_detector(SMALL.checkpoint)), datamodule=data, verbose=False)
    result = read_result(whole, "a", "b")
    assert result is not None
    expected = {one.name: one.figures["bal_acc"].value for one in result.scores.conditions[:3]}
    got = {name.removeprefix("test/bal_acc/"): value for name, value in logged.items() if name != "test/bal_acc"}
    assert got == pytest.approx(expected, abs=1e-6), "logged as float32"


def test_reports_put_suites_side_by_side(whole: Path, tmp_path: Path) -> None:
    first = whole
    other = run_suite(tmp_path / "b", "crops=native")
    report.run(compose("report", [f"runs=[{whole},{other}]", f"output_dir={tmp_path / 'report'}", "replicates=20"]))
    lines = (tmp_path / "report" / "robustness.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(CONDITIONS) * 4, "three subsets and their mean"
    page = (tmp_path / "report" / "robustness.html").read_text()
    assert page.count("<svg") == len(FAMILIES) + 1, "and format alignment"
    assert "crops native" in page
    assert "Side by side" in page
    assert (tmp_path / "report" / "robustness.svg").read_text().count('id="axes_') == len(FAMILIES) + 1
    another = tmp_path / "another"
    shutil.copytree(whole, another)
    kept = json.loads((another / "robustness.json").read_text())
    (another / "robustness.json").write_text(json.dumps(kept | {"suite": "another", "title": "Another"}))
    report.run(compose("report", [f"runs=[{whole},{another}]", f"output_dir={tmp_path / 'two'}", "replicates=20"]))
    assert (tmp_path / "two" / "robustness.html").read_text().count("<h2") == 2, "two suites of one detector"
    plain = evaluate(tmp_path / "plain")
    report.run(compose("report", [f"runs=[{plain}]", f"output_dir={tmp_path / 'without'}", "replicates=20"]))
    assert not (tmp_path / "without" / "robustness.csv").exists()
    kept = json.loads((first / "robustness.json").read_text())
    result = read_result(first, kept["detector"], kept["benchmark"])
    assert result is not None
    kept.pop("schema_version")
    assert json.loads(json.dumps(asdict(result))) == kept


def test_perturbed_runs_are_called_so(tmp_path: Path) -> None:
    evaluate(tmp_path / "runs" / "a")
    perturbed = evaluate(tmp_path / "runs" / "b", "perturb=[resize_0.5,jpeg_70]", "perturb_seed=3")
    assert json.loads((perturbed / "run.json").read_text())["condition"] == {
        "perturb": "resize_0.5+jpeg_70", "seed": 3, "version": 1, "format_align": None,
    }  # fmt: skip
    report.run(compose("report", [f"runs=[{tmp_path / 'runs'}]", f"output_dir={tmp_path / 'report'}", "replicates=20"]))
    assert "perturb resize_0.5+jpeg_70" in (tmp_path / "report" / "table.csv").read_text()
    assert not (perturbed / "deltas.csv").exists(), "published numbers are of images as they are"


def test_a_threshold_from_elsewhere(tmp_path: Path) -> None:
    elsewhere = evaluate(tmp_path / "chameleon", benchmark="chameleon")
    result = read_result(run_suite(tmp_path / "a", f"threshold_from={elsewhere}"), "a", "b")
    assert result is not None
    assert result.scores.other_threshold is not None
    assert all(one.at_other_threshold is not None for one in result.scores.conditions)
    same = evaluate(tmp_path / "same")
    result = read_result(run_suite(tmp_path / "b", f"threshold_from={same}"), "a", "b")
    assert result is not None
    assert result.scores.other_threshold is None, "its images are the ones that are judged"
    assert result.threshold_from is None
    with pytest.raises(ConfigError, match="threshold_from: expected the folder of one complete run"):
        run_suite(tmp_path / "c", f"threshold_from={tmp_path}")
    with pytest.raises(ConfigError, match=r"threshold_from: .* is of other crops"):
        run_suite(tmp_path / "c", f"threshold_from={elsewhere}", "crops=five")
    calibrate.run(compose("calibrate", [f"runs=[{same}]", "method=shift", f"output={tmp_path / 'c.json'}"]))
    shifted = evaluate(tmp_path / "shifted", f"calibration={tmp_path / 'c.json'}", benchmark="chameleon")
    with pytest.raises(ConfigError, match=r"threshold_from: .* is calibrated, and this run is not"):
        run_suite(tmp_path / "c", f"threshold_from={shifted}")
    with pytest.raises(ConfigError, match="heads and threshold_from: a threshold is of one detector"):
        run_suite(tmp_path / "c", f"threshold_from={elsewhere}", "heads=[b.ckpt]")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("before", ["", "gaussian_noise_0.1+"])
def test_predict_perturbs_as_a_copy_would_be(before: str, tmp_path: Path) -> None:
    picture = min((SMALL.data_root / "WildRF").rglob("*.jpeg"))

    def logit_of(path: Path, *more: str) -> float:
        output = tmp_path / f"{path.stem}.csv"
        common = [f"checkpoint={SMALL.checkpoint}", f"backbone.path={SMALL.backbone_path}", "num_workers=0"]
        predict.run(compose("predict", [f"input=[{path}]", f"output={output}", *common, *more]))
        with output.open() as file:
            return float(next(csv.DictReader(file))["logit"])

    image, _ = parse_perturbation(before)(Image.open(picture).convert("RGB"), ".jpeg", str(picture))
    image.save(tmp_path / "copy.jpg", "JPEG", quality=50)
    assert logit_of(picture, f"perturb={before}jpeg_50") == logit_of(tmp_path / "copy.jpg")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["perturb=jpg_50"], "perturb=jpg_50: there is no such operation. Did you mean jpeg?"),
        (["perturb=jpeg_0"], "a level from 1 to 100"),
        (["perturb_seed=-1"], "perturb_seed must be at least 0"),
        (["format_align=jpeg"], "format_align must be one of none, png, all"),
    ],
)
def test_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        evaluate(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": {"a": ["jpeg_50", "jpeg_50"]}}, "jpeg_50 is there twice"),
        ({"families": {"a": ["clean"]}}, "clean is there twice, or is the picture as it is"),
        ({"families": {"a": []}}, "expected a name of its own and a list"),
        ({"families": {"Format alignment": ["jpeg_50"]}}, "expected a name of its own"),
        ({"families": {}}, r"suite\.families: expected lists of perturbations by name, got {}"),
        ({"families": ["jpeg_50"]}, r"suite\.families: expected lists of perturbations by name"),
        ({"families": {"a": [5]}}, r"suite\.families\.a: expected a perturbation such as jpeg_50, got 5"),
        ({"families": {"a": [{"jpeg": 50}]}}, r"suite\.families\.a: expected a perturbation"),
        ({"more": 1}, "suite: expected families, name, source, title; got"),
    ],
)
def test_suites_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_suite({"name": "a", "title": "A", "source": "s", "families": {"a": ["jpeg_50"]}, **change})


def test_a_suite_refuses_what_it_says_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the suite says it"):
        run_suite(tmp_path / "out", "perturb=jpeg_50")
    with pytest.raises(ConfigError, match=r"settings of mirror_pl\.eval"):
        run_suite(tmp_path / "out", "compat=published")
    assert not (tmp_path / "out").exists()
