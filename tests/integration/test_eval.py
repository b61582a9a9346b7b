"""The main job, end to end: the published reports, the run folder, and everything that can be wrong."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from golden_set import SMALL, GoldenSet
from runs import KEYS, assert_equal_reports, golden_overrides, report_of

from mirror_pl.config.command import compose
from mirror_pl.errors import CheckpointError, ConfigError, DataError, IncompleteRunError, OutputError
from mirror_pl.jobs.eval import run


def evaluate(output: Path, *overrides: str) -> Path:
    run(compose("eval", [f"output_dir={output}", "trainer.accelerator=cpu", "num_workers=0", *overrides]))
    return output


def json_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def predictions_of(folder: Path) -> dict[str, float]:
    table = pq.read_table(folder / "predictions.parquet")
    return dict(zip(table["path"].to_pylist(), table["p_fake"].to_pylist(), strict=True))


def test_the_published_reports(golden: GoldenSet, tmp_path: Path) -> None:
    published = {row["path"]: float(row["prob_fake"]) for row in golden.rows()}
    seen = 0
    for benchmark in golden.benchmarks:
        folder = evaluate(tmp_path / benchmark, *golden_overrides(golden, benchmark))
        assert_equal_reports(report_of(folder), golden.report(KEYS[benchmark]))
        predictions = predictions_of(folder)
        assert all(abs(p_fake - published[path]) < 1e-5 for path, p_fake in predictions.items())
        seen += len(predictions)
    assert seen == len(published)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_batch_size_does_not_move_reports(tmp_path: Path, batch_size: int) -> None:
    folder = evaluate(tmp_path / "out", *golden_overrides(SMALL, "wildrf"), f"batch_size={batch_size}")
    assert_equal_reports(report_of(folder), SMALL.report("WildRF"))


def test_precision_and_workers(tmp_path: Path) -> None:
    exact = predictions_of(evaluate(tmp_path / "a", *golden_overrides(SMALL, "wildrf"), "num_workers=2", "batch_size=5"))
    mixed = predictions_of(evaluate(tmp_path / "b", *golden_overrides(SMALL, "wildrf"), "trainer.precision=bf16-mixed"))
    half = predictions_of(evaluate(tmp_path / "c", *golden_overrides(SMALL, "wildrf"), "trainer.precision=bf16-true"))
    assert exact.keys() == mixed.keys() == half.keys()
    assert 0 < max(abs(exact[path] - mixed[path]) for path in exact) < 0.01
    assert 0 < max(abs(exact[path] - half[path]) for path in exact) < 0.1


def test_the_run_folder_is_the_record(tmp_path: Path) -> None:
    folder = evaluate(tmp_path / "out", *golden_overrides(SMALL, "wildrf"), f"memory_path={SMALL.memory_path}")
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "predictions.parquet", "metrics.json", "bad_images.csv", "run.json"} < names
    assert not [name for name in names if name.endswith(".tmp")]

    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert [row["id"] for row in table] == list(range(21))
    assert {row["benchmark"] for row in table} == {"wildrf"}
    assert table[0]["path"] == "WildRF/test/facebook/0_real/000.jpeg"
    for row in table:
        assert row["label"] == ("1_fake" in row["path"])
        assert row["subset"] == row["path"].split("/")[2]
        assert row["p_fake"] == pytest.approx(torch.sigmoid(torch.tensor(row["logit"])).item(), abs=1e-6)

    metrics = json_of(folder, "metrics.json")
    assert [row["subset"] for row in metrics["subsets"]] == ["facebook", "reddit", "twitter"]
    assert metrics["mean"]["bal_acc"] == pytest.approx(0.2777777777777778, abs=1e-12)
    assert metrics["mean_rows"]["bal_acc"] == 3
    assert metrics["images"] == {"ok": 21, "truncated": 0, "undecodable": 0, "non_finite": 0}
    assert not metrics["miniature"]

    facts = json_of(folder, "run.json")
    assert facts["images"]["indexed"] == 21
    assert len(facts["checkpoint"]["sha256"]) == len(facts["data"]["fingerprint"]) == 64
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["detector"]["backbone"]["width"] == 32
    assert (folder / facts["report"]).is_file()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data_root"] == str(SMALL.data_root)
    assert "${" not in (folder / "config.yaml").read_text()

    with pytest.raises(ConfigError, match="holds a complete run already"):
        evaluate(folder, *golden_overrides(SMALL, "wildrf"))


def test_torchmetrics_balanced_accuracy_is_logged(tmp_path: Path) -> None:
    folder = evaluate(tmp_path / "out", *golden_overrides(SMALL, "wildrf"), "logger=csv")
    with (folder / "csv" / "metrics.csv").open() as file:
        row = {key: value for line in csv.DictReader(file) for key, value in line.items() if value}
    for subset in SMALL.report("WildRF")[:3]:
        assert float(row[f"test/bal_acc/{subset['Dataset']}"]) == pytest.approx(float(subset["Bal_Acc"]), abs=1e-6)
    assert float(row["report/auc"]) == pytest.approx(float(SMALL.report("WildRF")[-1]["AUC"]), abs=1e-6)
    assert float(row["test/bal_acc"]) == pytest.approx(float(SMALL.report("WildRF")[-1]["Bal_Acc"]), abs=1e-6)


def test_a_converted_folder_and_its_name_mean_the_same(tmp_path: Path) -> None:
    from mirror_pl.jobs.convert import run as convert

    for merge in ("true", "false"):
        converted = tmp_path / f"detector {merge}"
        convert(compose("convert", [f"input={SMALL.checkpoint}", f"output='{converted}'", f"merge_lora={merge}"]))
        folder = evaluate(
            tmp_path / merge, "benchmark=chameleon", f"data_root={SMALL.data_root}", f"checkpoint='{converted}'"
        )
        assert_equal_reports(report_of(folder), SMALL.report("Chameleon"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the small golden tree, to be damaged."""
    return Path(shutil.copytree(SMALL.data_root, tmp_path / "data"))


def small_tiny(tree: Path, benchmark: str) -> list[str]:
    return [f"benchmark={benchmark}", f"data_root={tree}", f"checkpoint={SMALL.checkpoint}"]


def test_missing_subsets_are_named_and_cost_nothing(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tree / "WildRF/test/reddit")
    folder = evaluate(tmp_path / "out", *small_tiny(tree, "wildrf"))
    assert [row["Dataset"] for row in report_of(folder)] == ["facebook", "twitter", "MEAN"]
    assert list(json_of(folder, "metrics.json")["missing_subsets"]) == ["reddit"]
    assert "left out: reddit" in capsys.readouterr().out
    with pytest.raises(IncompleteRunError, match="subsets not on disk: reddit"):
        evaluate(tmp_path / "all", *small_tiny(tree, "wildrf"), "require_all=true")
    assert (tmp_path / "all" / "run.json").exists(), "everything is written all the same"


def test_undefined_is_shown_as_undefined(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tree / "WildRF/test/reddit/0_real")
    folder = evaluate(tmp_path / "out", *small_tiny(tree, "wildrf"))
    reddit, mean, rows = report_of(folder)[1], *report_of(folder)[3:]
    assert reddit == {
        "Dataset": "reddit", "Acc": "0.5", "Real_Acc": "", "Fake_Acc": "0.5", "Bal_Acc": "", "AUC": "", "AP": "",
    }  # fmt: skip
    assert rows == {
        "Dataset": "MEAN_ROWS", "Acc": "3", "Real_Acc": "2", "Fake_Acc": "3", "Bal_Acc": "2", "AUC": "2", "AP": "2",
    }  # fmt: skip
    golden = {row["Dataset"]: row for row in SMALL.report("WildRF")}
    expected = (float(golden["facebook"]["Bal_Acc"]) + float(golden["twitter"]["Bal_Acc"])) / 2
    assert float(mean["Bal_Acc"]) == pytest.approx(expected, abs=1e-12)
    metrics = json_of(folder, "metrics.json")
    assert metrics["subsets"][1]["metrics"]["bal_acc"] is None
    assert metrics["mean_rows"]["bal_acc"] == 2
    assert "of rows" in (printed := capsys.readouterr().out)
    assert "2/3" in printed

    published = evaluate(tmp_path / "published", *small_tiny(tree, "wildrf"), "compat=published")
    assert report_of(published)[1]["Real_Acc"] == "0.0"
    assert report_of(published)[1]["Bal_Acc"] == "0.25"
    assert next(published.glob("WildRF_*.csv"))


def test_compat_published_changes_nothing_where_all_is_well(tmp_path: Path) -> None:
    folder = evaluate(tmp_path / "out", *golden_overrides(SMALL, "wildrf"), "compat=published")
    assert_equal_reports(report_of(folder), SMALL.report("WildRF"))
    assert json.loads((folder / "metrics.json").read_text())["compat_release"] == "MIRROR's code of April 2026"


def test_bad_images_are_listed_counted_and_never_replaced(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tree / "Chameleon/test/0_real"
    (real / "empty.png").touch()
    (real / "text.jpg").write_text("no image")
    (real / "folder.png").mkdir()
    (real / "notes.txt").touch()
    whole = (real / "000.jpg").read_bytes()
    (real / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IncompleteRunError, match=r"3 of 20 images are undecodable, more than max_bad_fraction=0\.01"):
        evaluate(tmp_path / "out", *small_tiny(tree, "chameleon"))
    folder = tmp_path / "out"
    with (folder / "bad_images.csv").open() as file:
        bad = {Path(row["path"]).name: (row["status"], row["reason"]) for row in csv.DictReader(file)}
    assert bad["empty.png"] == ("undecodable", "an empty file")
    assert bad["folder.png"] == ("undecodable", "a folder, not a file")
    assert bad["text.jpg"][0] == "undecodable"
    assert bad["truncated.jpg"][0] == "truncated"
    assert "image file is truncated" in bad["truncated.jpg"][1]
    assert len(bad) == 4

    predictions = predictions_of(folder)
    published = {row["path"]: float(row["prob_fake"]) for row in SMALL.rows()}
    for path, p_fake in predictions.items():
        if path in published:
            assert p_fake == pytest.approx(published[path], abs=1e-5)
    assert predictions["Chameleon/test/0_real/empty.png"] is None
    assert predictions["Chameleon/test/0_real/truncated.jpg"] is not None
    (row,) = json_of(folder, "metrics.json")["subsets"]
    assert (row["reals"], row["fakes"], row["unscored"]) == (9, 8, 3)
    assert json_of(folder, "metrics.json")["passed_over"]["suffix .txt"]["files"] == 1
    assert (folder / "run.json").exists()
    printed = capsys.readouterr().out
    assert "3 without a score: they are in no figure" in printed
    assert "passed over: 1 file with suffix .txt" in printed

    evaluate(tmp_path / "lenient", *small_tiny(tree, "chameleon"), "max_bad_fraction=0.2")


def test_nothing_decodable(tree: Path, tmp_path: Path) -> None:
    for path in (tree / "Chameleon").rglob("*.*"):
        path.write_text("no image")
    with pytest.raises(IncompleteRunError, match="none of the 16 images could be decoded"):
        evaluate(tmp_path / "out", *small_tiny(tree, "chameleon"), "batch_size=3")
    assert set(report_of(tmp_path / "out")[0].values()) == {"ALL", ""}


def test_scores_that_are_not_finite_are_no_verdicts(tree: Path, tmp_path: Path) -> None:
    """Damaged weights, or an overflow in half precision, must not look like a detector that says "real"."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(SMALL.checkpoint, weights_only=True)
    content["model"]["detector.head.3.bias"][0] = float("nan")
    torch.save(content, tmp_path / "damaged.pth")
    with pytest.raises(IncompleteRunError, match="16 of 16 images got no finite score"):
        evaluate(tmp_path / "out", *small_tiny(tree, "chameleon"), f"checkpoint={tmp_path / 'damaged.pth'}")
    assert set(report_of(tmp_path / "out")[0].values()) == {"ALL", ""}
    assert set(predictions_of(tmp_path / "out").values()) == {None}


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    evaluate(folder, *golden_overrides(SMALL, "wildrf"))
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match="holds an interrupted or still running run already"):
        evaluate(folder, *golden_overrides(SMALL, "wildrf"))
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="output_dir"):
            evaluate(output, *golden_overrides(SMALL, "wildrf"))


def test_names_that_look_like_markup_are_printed_as_they_are(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tree.rename(tmp_path / "d[red]")
    (odd / "Chameleon/test/0_real" / os.fsdecode(b"\xff.txt")).touch()
    output = tmp_path / "o[" / "x]"
    run(
        compose(
            "eval",
            [
                "benchmark=chameleon",
                f"checkpoint={SMALL.checkpoint}",
                "num_workers=0",
                "trainer.accelerator=cpu",
                f"data_root='{odd}'",
                f"output_dir='{output}'",
            ],
        )
    )
    printed = capsys.readouterr().out
    assert str(odd) in printed
    assert f"Report: {output}" in printed
    assert "\\xff.txt" in printed


def test_names_steer_neither_a_terminal_nor_a_spreadsheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    picture = next(SMALL.data_root.rglob("*.jpg")).read_bytes()
    subset, hostile = "=1+1\x1b]0;x\x07[red]", "=2\x1b[2J\u202e\nerror: 1"
    for label in ("0_real", "1_fake"):
        folder = tmp_path / "data" / subset / label
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(picture)
        (folder / f"{hostile}.jpg").write_bytes(b"no image")
        (folder / f"{hostile}.\x1b[2J").touch()
    output = tmp_path / "out"
    with pytest.raises(IncompleteRunError):
        evaluate(output, "benchmark=folder", f"data_root={tmp_path / 'data'}", f"checkpoint={SMALL.checkpoint}")
    printed = "".join(capsys.readouterr())
    assert r"=1+1\x1b]0;x\x07[red]" in printed
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]|\nerror", printed)
    with (output / "bad_images.csv").open(newline="", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [f"'{subset}/{label}/{hostile}.jpg" for label in ("0_real", "1_fake")]


def test_what_cannot_start_writes_nothing(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for overrides, error, message in (
        (["data_root=nowhere"], DataError, "nowhere does not exist"),
        (["benchmark=genimage"], DataError, "no folder Genimage"),
        (["checkpoint=nowhere.pth"], CheckpointError, "nowhere.pth does not exist"),
        (["backbone=dinov3_b"], CheckpointError, "use backbone=tiny"),
        (["backbone=dinov3_b", "checkpoint=null"], ConfigError, "no published weights for backbone=dinov3_b"),
        (["compat=yes"], ConfigError, "compat"),
        (["checkpoint=null"], ConfigError, "checkpoint: none was given; give"),
        (["trainer.accelerator=gpu", "trainer.devices=17"], ConfigError, "trainer: .*devices=17"),
        (["trainer.precision=7"], ConfigError, "trainer: .*precision"),
        (["backbone.path=nowhere"], CheckpointError, "no config.json in nowhere"),
    ):
        with pytest.raises(error, match=message):
            evaluate(output, *small_tiny(tree, "chameleon"), *overrides)
        assert not output.exists()


def test_shared_reals_are_scored_once_and_count_in_every_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SynthWildX as crawled: one set of reals for three generators."""
    source = SMALL.data_root / "WildRF/test"
    data = tmp_path / "data/synthwildx"
    places = {
        "real": "facebook/0_real",
        "dalle3": "facebook/1_fake",
        "firefly": "reddit/1_fake",
        "midjourney_v5": "twitter/1_fake",
    }
    for name, place in places.items():
        shutil.copytree(source / place, data / name)
    overrides = ["benchmark=synthwildx", f"data_root={data.parent}", f"checkpoint={SMALL.checkpoint}"]
    folder = evaluate(tmp_path / "out", *overrides, "logger=csv")

    published = {row["path"]: row for row in SMALL.rows()}
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(table) == 3 * 3 + 12
    assert len({row["id"] for row in table}) == 3 + 12, "each image once"
    for row in table:
        folder_name, name = row["path"].removeprefix("synthwildx/").split("/")
        expected = float(published[f"WildRF/test/{places[folder_name]}/{name}"]["prob_fake"])
        assert row["p_fake"] == pytest.approx(expected, abs=1e-5)

    real_acc = sum(
        float(row["prob_fake"]) <= 0.5 for path, row in published.items() if path.startswith("WildRF/test/facebook/0_real")
    )
    for row in report_of(folder)[:3]:
        assert float(row["Real_Acc"]) == pytest.approx(real_acc / 3)
        assert row["Bal_Acc"]
    metrics = json_of(folder, "metrics.json")
    assert metrics["paired_with"] == dict.fromkeys(["dalle3", "firefly", "midjourney_v5"], "shared:real")
    assert (metrics["pooled"]["reals"], metrics["pooled"]["fakes"]) == (3, 12)
    with (folder / "csv" / "metrics.csv").open() as file:
        logged = {key: value for line in csv.DictReader(file) for key, value in line.items() if value}
    for row in metrics["subsets"]:
        assert float(logged[f"test/bal_acc/{row['subset']}"]) == pytest.approx(row["metrics"]["bal_acc"], abs=1e-6)
    assert "paired with real: dalle3, firefly, midjourney_v5" in capsys.readouterr().out

    alone = evaluate(tmp_path / "published", *overrides, "compat=published")
    assert {row["Real_Acc"] for row in report_of(alone)} == {"0.0"}
    mine = evaluate(tmp_path / "mine", *overrides, f"reals={source / 'twitter/0_real'}")
    assert set(json_of(mine, "metrics.json")["paired_with"].values()) == {"shared:reals"}


def test_classes_on_request(tmp_path: Path) -> None:
    """progan/horse/0_real and so on: a row each, and the subset's row as before."""
    source = SMALL.data_root / "WildRF/test"
    for class_name, place in (("horse", "facebook"), ("car", "reddit")):
        shutil.copytree(source / place, tmp_path / "data/AIGC_bm/progan" / class_name)
    shutil.copytree(source / "twitter", tmp_path / "data/AIGC_bm/biggan")
    overrides = ["benchmark=aigcdetect", f"data_root={tmp_path / 'data'}", f"checkpoint={SMALL.checkpoint}"]
    folder = evaluate(tmp_path / "out", *overrides, "per_class=true")
    (path,) = folder.glob("*_per_class.csv")
    with path.open() as file:
        got = {row["Dataset"]: row for row in csv.DictReader(file)}
    golden = {row["Dataset"]: row for row in SMALL.report("WildRF")}
    assert list(got) == ["progan/car", "progan/horse", "MEAN"]
    for name, place in (("progan/horse", "facebook"), ("progan/car", "reddit")):
        for column in ("Acc", "Bal_Acc", "AUC", "AP"):
            assert float(got[name][column]) == pytest.approx(float(golden[place][column]), abs=1e-9)
    assert [row["subset"] for row in json_of(folder, "metrics.json")["per_class"]] == ["progan/car", "progan/horse"]
    assert [row["subset"] for row in json_of(folder, "metrics.json")["subsets"]] == ["progan", "biggan"]
    flat = evaluate(tmp_path / "flat", *golden_overrides(SMALL, "wildrf"), "per_class=true")
    assert json_of(flat, "metrics.json")["per_class"] is None
    assert not list(flat.glob("*_per_class.csv"))


@pytest.mark.slow
def test_several_crops_an_image(tmp_path: Path) -> None:
    """Evaluation with several crops is the Python API's, with the crops' cache and without."""
    from mirror_pl.detectors import CropPolicy, load_detector

    settings = ["crops=five", "aggregate=topk", "aggregate_of=score", "top_fraction=0.5", "batch_size=12"]
    folder = evaluate(tmp_path / "out", *golden_overrides(SMALL, "wildrf"), *settings)
    policy = CropPolicy("five", "topk", "score", 0.5)
    detector = load_detector(SMALL.checkpoint)
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    paths = [SMALL.data_root / row["path"] for row in table]
    for row, prediction in zip(table, detector.predict(paths, policy=policy), strict=True):
        assert row["p_fake"] == pytest.approx(prediction.p_fake, abs=1e-5)
        assert row["logit"] == pytest.approx(prediction.logit, abs=1e-4)
    expected = predictions_of(folder)
    for _ in range(2):
        again = evaluate(
            tmp_path / f"cached{_}", *golden_overrides(SMALL, "wildrf"), *settings, f"cache_dir={tmp_path / 'cache'}"
        )
        assert predictions_of(again) == expected
    with pytest.raises(ConfigError, match="Did you mean five"):
        evaluate(tmp_path / "no", *golden_overrides(SMALL, "wildrf"), "crops=fiv")
    assert not (tmp_path / "no").exists()
