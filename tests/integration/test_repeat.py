"""A run is done again from its run.json alone, and said to agree or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_set import SMALL
from runs import results_of

from mirror_pl.config.command import compose
from mirror_pl.config.sweep import setting_of
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError
from mirror_pl.jobs.eval import run
from mirror_pl.jobs.repetition import Agreement


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run made in another folder, with paths relative to it."""
    shutil.copytree(SMALL.data_root / "WildRF", tmp_path / "there/data/WildRF")
    shutil.copy(SMALL.checkpoint, tmp_path / "there/mine.pth")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "there")
        run(
            compose(
                "eval",
                ["benchmark=wildrf", "checkpoint=mine.pth", "output_dir=one", "batch_size=4", "per_class=true",
                 "trainer.accelerator=cpu", "num_workers=0", "logger=csv"],
            )
        )  # fmt: skip
    shutil.rmtree(tmp_path / "there/outputs")
    return tmp_path / "there/one"


def again(original: Path, *overrides: str) -> None:
    run(compose("eval", [f"repeat={original}", *overrides]), {"repeat", *(setting_of(override) for override in overrides)})


def repeat(original: Path, *overrides: str) -> Path:
    again(original, *overrides)
    (folder,) = Path("outputs/eval/wildrf").iterdir()
    return folder


def test_a_run_is_done_again(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (original / "config.yaml").unlink()  # run.json is enough
    shutil.rmtree(original / "csv")
    before = results_of(original)
    folder = repeat(original)
    assert "agrees; all 21 scores are the same to the bit" in capsys.readouterr().out
    facts = json.loads((folder / "run.json").read_text())
    assert facts["repeats"]["agrees"]
    assert facts["config"]["batch_size"] == 4
    assert facts["config"]["per_class"]
    assert facts["config"]["logger"] == {}, "loggers are this command's, not the original's"
    assert results_of(folder) == before
    assert results_of(original) == before


def test_settings_that_a_benchmark_brings_are_no_part_of_its_manifest(original: Path) -> None:
    """As those of the miniature."""
    facts = json.loads((original / "run.json").read_text())
    facts["config"]["benchmark"] |= {"data_root": "elsewhere", "checkpoint": "miniature"}
    (original / "run.json").write_text(json.dumps(facts))
    assert json.loads((repeat(original) / "run.json").read_text())["repeats"]["agrees"]


def test_what_the_command_line_names_is_taken_from_it(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = repeat(original, "batch_size=7", "logger=none")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["config"]["batch_size"] == 7
    assert facts["config"]["logger"] == {}
    assert facts["repeats"]["agrees"]
    assert not (folder / "csv").exists()
    assert "Repetition of" in capsys.readouterr().out


def test_numbers_that_do_not_agree(original: Path) -> None:
    table = pq.read_table(original / "predictions.parquet")
    p_fake = table["p_fake"].to_numpy().copy()
    p_fake[3] += 0.01
    place = table.schema.get_field_index("p_fake")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(p_fake)), original / "predictions.parquet")
    with pytest.raises(
        IncompleteRunError, match=r"does not agree; of 21 scores 21 are the same to the bit, p_fake differs by 0\.01"
    ):
        repeat(original)
    (folder,) = Path("outputs/eval/wildrf").iterdir()
    assert not json.loads((folder / "run.json").read_text())["repeats"]["agrees"]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["checkpoint=other.pth"], ConfigError, "checkpoint is not that of"),
        (["data_root=less"], DataError, "21 images then, 20 now"),
        (["resume=true", "output_dir=x"], ConfigError, "give one of the two"),
    ],
)
def test_other_things_are_no_repetition(original: Path, overrides: list[str], error: type[Exception], message: str) -> None:
    Path("other.pth").write_bytes(SMALL.checkpoint.read_bytes() + b" ")
    shutil.copytree(SMALL.data_root / "WildRF", "less/WildRF")
    next(Path("less/WildRF/test/reddit/1_fake").iterdir()).unlink()
    with pytest.raises(error, match=message):
        again(original, *overrides)
    assert not list(Path().glob("outputs/eval/*/*"))


@pytest.mark.parametrize("damage", ["gone", "cut", "old", "incomplete"])
def test_what_is_no_run(original: Path, damage: str) -> None:
    facts: dict[str, Any] = json.loads((original / "run.json").read_text())
    if damage == "gone":
        (original / "run.json").unlink()
    elif damage == "cut":
        (original / "run.json").write_text("{")
    elif damage == "old":
        del facts["config"]
        (original / "run.json").write_text(json.dumps(facts))
    else:
        (original / "predictions.parquet").unlink()
    expected = {
        "gone": "no run.json",
        "cut": "cannot be read",
        "old": "older version",
        "incomplete": "no predictions.parquet",
    }
    with pytest.raises(ConfigError, match=expected[damage]):
        again(original)


def test_agreement() -> None:
    assert Agreement(10, 0, 10, 0.0, 0, 0).agrees
    assert Agreement(10, 0, 3, 9e-5, 0, 0).agrees
    for broken in (Agreement(10, 1, 10, 0, 0, 0), Agreement(10, 0, 3, 2e-4, 0, 0), Agreement(10, 0, 9, 1e-6, 1, 0)):
        assert not broken.agrees
        assert "does not agree" in str(broken)
    assert np.isclose(Agreement(1, 0, 1, 0.5, 0, 0).to_dict()["largest"], 0.5)
