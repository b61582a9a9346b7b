"""The data check, end to end: what is there, what is wrong with it, and nothing about what it did not look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_trees import OFFICIAL, write
from golden_set import SMALL
from PIL import Image

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
    assert len(result["absent"]) == 24
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


def plant(root: Path, subsets: dict[str, bool], count: int = 40) -> Path:
    """Write pictures of WildRF's subsets; where it says so, fakes are PNG and square, and reals JPEG of many sizes."""
    generator = np.random.default_rng(1)
    for subset, planted in subsets.items():
        for label, folder in enumerate(("0_real", "1_fake")):
            (root / f"WildRF/test/{subset}/{folder}").mkdir(parents=True)
            for number in range(count):
                kind = label if planted else generator.integers(2)
                size = (16, 16) if kind else tuple(generator.integers(16, 40, 2).tolist())
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                suffix = "png" if kind else "jpg"
                Image.fromarray(pixels).save(root / f"WildRF/test/{subset}/{folder}/{number}.{suffix}")
    return root


def test_the_audit_finds_what_is_planted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(tmp_path / "data", {"facebook": True, "reddit": False, "twitter": False})
    reddit = root / "WildRF/test/reddit"
    shutil.copy(next((reddit / "1_fake").iterdir()), reddit / "1_fake/copy.png")
    (reddit / "1_fake/text.png").write_text("no image")
    check(root, "benchmark=wildrf", "audit=true")
    (entry,) = found()["benchmarks"]
    assert entry["problems"] == [], "a confound is a property of the benchmark, and no defect"
    audits = {audit["subset"]: audit for audit in entry["audits"]}
    assert list(audits) == ["facebook", "reddit", "twitter", "all subsets"]
    assert {name: audit["confound"] for name, audit in audits.items()} == {
        "facebook": True,
        "reddit": False,
        "twitter": False,
        "all subsets": True,
    }
    facebook = audits["facebook"]
    assert facebook["alone"]["format"]["balanced_accuracy"] == 1
    assert (facebook["reals"], facebook["fakes"]) == (40, 40)
    assert set(facebook["alone"]) == {
        "width", "height", "aspect_ratio", "file_size", "format", "jpeg_tables", "jpeg_quality", "exif",
    }  # fmt: skip
    assert (audits["reddit"]["unread"], audits["reddit"]["copies"], audits["reddit"]["fakes"]) == (1, 1, 40)
    printed = capsys.readouterr().out
    assert "confound: file format alone tells real from fake with balanced accuracy 1.00 [0.94, 1.00], p < 0.001" in printed
    assert "a detector may score well on wildrf/facebook by file format alone; see format_align" in printed
    assert "no confound found in: reddit, twitter" in printed
    first = json.dumps(entry["audits"])
    check(root, "benchmark=wildrf", "audit=true")
    assert json.dumps(found()["benchmarks"][0]["audits"]) == first, "the same draw each time"


def test_a_small_benchmark_is_not_audited(capsys: pytest.CaptureFixture[str]) -> None:
    check(SMALL.data_root, "benchmark=wildrf", "audit=true")
    (entry,) = found()["benchmarks"]
    assert {audit["confound"] for audit in entry["audits"]} == {None}
    assert "not audited, for want of 20 images of each class: facebook, reddit, twitter" in capsys.readouterr().out
    check(SMALL.data_root, "benchmark=wildrf")
    assert found()["benchmarks"][0]["audits"] is None
