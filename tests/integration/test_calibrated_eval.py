"""A calibration in an evaluation, a prediction and Python: the detector's own logits stay, the others are calibrated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from calibrations import fitted
from golden_set import SMALL

from mirror_pl import BenchmarkDataModule, DetectorModule, load_detector
from mirror_pl.abstention import VERDICTS
from mirror_pl.calibration import Calibration, as_text, p_fake_of, read_calibration
from mirror_pl.config.command import compose
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.jobs import calibrate, predict
from mirror_pl.jobs import eval as evaluation
from mirror_pl.reports.gathered_runs import find_runs

FILES = (f"checkpoint={SMALL.checkpoint}", f"backbone.path={SMALL.backbone_path}", "num_workers=0")


def evaluate(output: Path, benchmark: str, *overrides: str) -> Path:
    of_set = [f"benchmark={benchmark}", f"data_root={SMALL.data_root}", "trainer.accelerator=cpu", f"output_dir={output}"]
    evaluation.run(compose("eval", [*FILES, *of_set, *overrides]))
    return output


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and ``c.json``, fitted on the first."""
    folder = tmp_path_factory.mktemp("runs")
    for benchmark in ("wildrf", "chameleon"):
        evaluate(folder / benchmark, benchmark)
    calibrate.run(compose("calibrate", [f"runs=[{folder / 'wildrf'}]", "method=shift", f"output={folder / 'c.json'}"]))
    return folder


def test_the_tables_logits_are_calibrated_and_the_detectors_own_are_kept(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "c.json"
    found = evaluate(tmp_path / "run", "chameleon", f"calibration={path}", "abstain=0.4", "logger=none")
    before = pq.read_table(runs / "chameleon" / "predictions.parquet")
    after = pq.read_table(found / "predictions.parquet")
    assert before.column_names == after.column_names[:-1]
    raw, logit = after["raw_logit"].to_numpy(), after["logit"].to_numpy()
    calibration = read_calibration(path)
    assert raw.tobytes() == before["logit"].to_numpy().tobytes()
    np.testing.assert_array_equal(logit, calibration(raw))
    np.testing.assert_array_equal(after["p_fake"].to_numpy(), p_fake_of(logit))
    assert (np.abs(logit - raw) > 1e-3).any()

    # Figures are of the calibrated scores, and what the third answer comes to is counted.
    metrics, facts = json_of(found / "metrics.json"), json_of(found / "run.json")
    scored, label = np.isfinite(raw), after["label"].to_numpy()
    right = [((logit > 0) == cls)[scored & (label == cls)].mean() for cls in (0, 1)]
    assert metrics["pooled"]["metrics"]["bal_acc"] == pytest.approx(np.mean(right))
    verdict = calibration.with_abstention(0.4).verdicts(raw[scored])
    for cls, name in enumerate(VERDICTS[:2]):
        answers = verdict[label[scored] == cls]
        assert metrics["abstention"][name]["unsure"] == (answers == 2).sum()
        assert metrics["abstention"][name]["wrong"] == (answers == 1 - cls).sum()
    assert facts["calibration"]["path"] == str(path)
    assert facts["calibrated"]["method"] == "shift"
    assert (facts["calibrated"]["abstain"], facts["calibrated"]["fitted_on"]["benchmark"]) == (0.4, "wildrf")
    assert "calibrated" not in json_of(runs / "chameleon" / "run.json")
    assert "at most 40 % wrong of all are stated" in capsys.readouterr().out

    # The same again, and gone on with: complete, or refused where the file is another.
    evaluate(tmp_path / "any" / "again", "chameleon", f"repeat={found}")
    assert json_of(tmp_path / "chameleon" / "again" / "run.json")["repeats"]["identical"] == before.num_rows
    evaluate(found, "chameleon", f"calibration={path}", "abstain=0.4", "logger=none", "resume=true")
    assert "Complete already" in capsys.readouterr().out
    (run,) = find_runs([found])
    assert run.read().column_names == after.column_names


def test_what_it_was_fitted_on_is_not_reported_on(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"calibration: it was fitted on wildrf \(.*, and \d+ of the \d+ images here"):
        evaluate(tmp_path / "run", "wildrf", f"calibration={runs / 'c.json'}")
    moved = tmp_path / "elsewhere"
    shutil.copytree(SMALL.data_root, moved)
    with pytest.raises(ConfigError, match="it was fitted on wildrf"):
        evaluate(tmp_path / "run", "wildrf", f"calibration={runs / 'c.json'}", f"data_root={moved}")
    assert not (tmp_path / "run").exists()


def test_a_calibration_of_another_detector_is_refused(runs: Path, tmp_path: Path) -> None:
    path = runs / "c.json"
    for overrides, words in (
        ((f"calibration={path}", "crops=five"), "fitted on another protocol"),
        (("abstain=0.1",), "abstain: it needs a calibration"),
        ((f"calibration={path}", "abstain=0.001"), "needs at least 999 reals"),
        ((f"calibration={path}", "abstain=0.7"), "abstain must be at most 0.5"),
    ):
        with pytest.raises(ConfigError, match=words):
            evaluate(tmp_path / "run", "chameleon", *overrides)
        assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match=r"calibration: .*gone\.json cannot be read"):
        evaluate(tmp_path / "run", "chameleon", f"calibration={tmp_path / 'gone.json'}")
    (tmp_path / "other.json").write_text(as_text(fitted()))
    with pytest.raises(ConfigError, match=r"fitted on another detector|fitted on another checkpoint"):
        load_detector(SMALL.checkpoint, backbone_folder=SMALL.backbone_path, calibration=tmp_path / "other.json")


def predicted(output: Path, *overrides: str) -> list[dict[str, Any]]:
    inputs = ",".join(str(SMALL.data_root / row["path"]) for row in SMALL.rows()[:6])
    predict.run(compose("predict", [f"input=[{inputs}]", f"output={output}", "device=cpu", *FILES, *overrides]))
    return pq.read_table(output).to_pylist() if output.suffix == ".parquet" else [*map(json.loads, output.open())]


def test_rows_of_a_prediction_have_the_third_answer(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = predicted(tmp_path / "plain.jsonl")
    calibrated = predicted(tmp_path / "calibrated.jsonl", f"calibration={runs / 'c.json'}")
    banded = predicted(tmp_path / "banded.parquet", f"calibration={runs / 'c.json'}", "abstain=0.4", "dedupe=true")
    assert [name for name in calibrated[0] if name not in plain[0]] == ["raw_logit"]
    assert [name for name in banded[0] if name not in plain[0]] == ["raw_logit", "verdict"]
    calibration = read_calibration(runs / "c.json").with_abstention(0.4)
    detector = load_detector(SMALL.checkpoint, backbone_folder=SMALL.backbone_path, calibration=runs / "c.json", abstain=0.4)
    in_python = detector.predict([row["image_path"] for row in plain])
    for row, other, third, one in zip(plain, calibrated, banded, in_python, strict=True):
        raw = np.array([row["logit"]], np.float32)
        assert other["raw_logit"] == row["logit"]
        assert third["raw_logit"] == pytest.approx(row["logit"], abs=1e-6)
        # Rows hold the shortest number that stands for a float32.
        assert other["logit"] == pytest.approx(float(calibration(raw)[0]), rel=1e-6)
        assert other["pred"] == pytest.approx(float(p_fake_of(calibration(raw))[0]), rel=1e-6)
        assert third["verdict"] == VERDICTS[int(calibration.verdicts(raw)[0])]
        assert one.verdict == third["verdict"]
        assert one.is_unsure == (third["verdict"] == "unsure")
        assert one.is_fake == {"real": False, "fake": True}.get(third["verdict"])
        assert one.raw_logit == pytest.approx(row["logit"], abs=1e-5)
    assert "unsure" in capsys.readouterr().out


def test_a_detector_kept_in_a_sweep_takes_the_calibration_of_each_job(runs: Path, tmp_path: Path) -> None:
    of_set = [f"data_root={SMALL.data_root}"]
    for name, more in (("first", []), ("second", [f"calibration={runs / 'c.json'}"]), ("third", [])):
        evaluate(tmp_path / name, "chameleon", *of_set, *more)
    tables = [pq.read_table(tmp_path / name / "predictions.parquet") for name in ("first", "second", "third")]
    assert ["raw_logit" in table.column_names for table in tables] == [False, True, False]
    assert (tmp_path / "first" / "predictions.parquet").read_bytes() == (
        tmp_path / "third" / "predictions.parquet"
    ).read_bytes()


def test_rows_without_a_score_have_no_answer(runs: Path, tmp_path: Path) -> None:
    detector = load_detector(SMALL.checkpoint, backbone_folder=SMALL.backbone_path, calibration=runs / "c.json", abstain=0.4)
    assert isinstance(detector.calibration, Calibration)
    torn = detector.predict(b"no picture")
    assert (torn.verdict, torn.is_fake, torn.is_unsure, torn.raw_logit) == (None, None, False, None)


def test_a_complete_run_is_not_that_of_another_calibration(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    shutil.copy(runs / "c.json", path)
    found = evaluate(tmp_path / "run", "chameleon", f"calibration={path}")
    path.write_text(as_text(replace(read_calibration(path), offset=3.0)))
    with pytest.raises(ConfigError, match=r"what the run in .* depends on has changed since it was started: calibration"):
        evaluate(found, "chameleon", f"calibration={path}", "resume=true")


def test_lightnings_own_trainer_predicts_calibrated_scores_and_counts_calibrated_decisions(runs: Path) -> None:
    detector = load_detector(SMALL.checkpoint, backbone_folder=SMALL.backbone_path)
    data = BenchmarkDataModule("chameleon", data_root=SMALL.data_root, num_workers=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    raw = [batch["logit"] for batch in trainer.predict(DetectorModule(detector), data) or []]
    detector.calibration = calibration = replace(read_calibration(runs / "c.json"), offset=-1.0)
    batches = trainer.predict(DetectorModule(detector), data) or []
    for own, batch in zip(raw, batches, strict=True):
        np.testing.assert_array_equal(batch["logit"].numpy(), calibration(own.numpy()))
        np.testing.assert_array_equal(batch["p_fake"].numpy(), p_fake_of(batch["logit"].numpy()))
    (figures,) = trainer.test(DetectorModule(detector), data, verbose=False)
    ids = torch.cat([batch["id"] for batch in batches]).numpy()
    decided, label = torch.cat([batch["logit"] for batch in batches]).numpy() > 0, data.index.labels[ids]
    expected = np.mean([(decided[label == cls] == cls).mean() for cls in (0, 1)])
    assert figures["test/bal_acc"] == pytest.approx(expected)
    by_raw = np.mean([((torch.cat(raw).numpy() > 0)[label == cls] == cls).mean() for cls in (0, 1)])
    assert expected != pytest.approx(by_raw), "else nothing would be shown"
