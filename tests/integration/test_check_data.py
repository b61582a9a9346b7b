"""The data check, end to end: what is there, what is wrong with it, and nothing about what it did not look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmark_trees import OFFICIAL, write
from golden_set import SMALL

from mirror_pl.config.command import compose
from mirror_pl.errors import BenchmarkAbsentError, DataError, IncompleteRunError
from mirror_pl.jobs.check_data import run


def check(root: Path, *overrides: str) -> dict[str, Any]:
    run(compose("check_data", [f"data_root={root}", "json=found.json", *overrides]))
    return found()


def found() -> dict[str, Any]:
    content = json.loads(Path("found.json").read_text())
    return content | {entry["benchmark"]: entry for entry in content["benchmarks"]}


def test_all_benchmarks_are_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    result = check(SMALL.data_root, "decode=true")
    assert {entry["benchmark"] for entry in result["benchmarks"]} == {"chameleon", "wildrf"}
    assert len(result["absent"]) == 16
    facebook = result["wildrf"]["subsets"][0]
    assert facebook["counts"] == {"real": 3, "fake": 4}
    assert facebook["expected"] == {"real": 500, "fake": 500}
    assert facebook["differs_from_expected"]
    assert facebook["formats"]["real"] == {"jpeg": 2, "png": 1}
    assert facebook["format_bias"] == pytest.approx((1 / 6 + 1 / 12 + 1 / 4) / 2), (
        "jpeg 2/3 to 1/2, png 1/3 to 1/4, bmp 0 to 1/4"
    )
    assert result["wildrf"]["undecodable"] == {}
    printed = capsys.readouterr().out
    assert "absent: genimage - " in printed
    assert "other counts than expected: facebook, reddit, twitter" in printed


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(SMALL.data_root, tmp_path / "data"))
    shutil.rmtree(root / "WildRF/test/twitter")
    test = root / "WildRF/test/reddit"
    shutil.copy(test / "0_real/000.jpg", test / "1_fake/copy.jpg")
    (test / "1_fake/text.png").write_text("no image")
    with pytest.raises(
        IncompleteRunError, match="wildrf: 1 subsets missing, 1 images both real and fake, 1 images undecodable"
    ):
        check(root, "benchmark=wildrf", "decode=true")
    (entry,) = found()["benchmarks"]
    assert entry["duplicates"] == [["WildRF/test/reddit/0_real/000.jpg", "WildRF/test/reddit/1_fake/copy.jpg"]]
    assert list(entry["undecodable"]) == ["WildRF/test/reddit/1_fake/text.png"]
    assert list(entry["missing_subsets"]) == ["twitter"]
    printed = capsys.readouterr().out
    assert "left out: twitter" in printed
    assert "to get what is missing: " in printed


def test_official_layouts_pairs_and_biases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(write(tmp_path / "a", OFFICIAL["synthbuster"]()), "benchmark=synthbuster")
    (entry,) = found()["benchmarks"]
    assert {subset["paired_with"] for subset in entry["subsets"]} == {"RAISE"}
    assert "paired with RAISE: dalle2, dalle3" in capsys.readouterr().out
    check(write(tmp_path / "b", OFFICIAL["evalgen"]()), "benchmark=evalgen")
    assert "one class: OmniGen has no real images" in capsys.readouterr().out
    biased = {"Chameleon/test/0_real/a.jpg": ("", 0, "a"), "Chameleon/test/1_fake/b.png": ("", 1, "b")}
    check(write(tmp_path / "c", biased), "benchmark=chameleon")
    assert "format bias: in ALL the file format alone tells 100 % apart" in capsys.readouterr().out


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no benchmark is in"):
        check(tmp_path)
    with pytest.raises(BenchmarkAbsentError, match="no folder Genimage"):
        check(tmp_path, "benchmark=genimage")
    with pytest.raises(DataError, match="nowhere does not exist"):
        check(tmp_path / "nowhere")
