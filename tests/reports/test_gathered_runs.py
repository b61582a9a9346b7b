"""Which folders are runs, and what is said of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_folders import Run, images

from mirror_pl.errors import DataError
from mirror_pl.reports.gathered_runs import find_runs

RUN = Run(images({"a": (4, 4)}))


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    RUN.write(tmp_path / "sweep/0")
    RUN.write(tmp_path / "sweep/1")
    RUN.write_incomplete(tmp_path / "sweep/deeper/2")
    RUN.write(tmp_path / "sweep/.being-written.tmp")
    found = find_runs([tmp_path / "sweep", tmp_path / "sweep/1"])
    assert [run.folder.name for run in found] == ["0", "1", "2"]
    assert [run.facts is None for run in found] == [False, False, True]


def test_a_training_is_no_evaluation_but_may_hold_one(tmp_path: Path) -> None:
    training = tmp_path / "training"
    training.mkdir()
    (training / "config.yaml").write_text("phase: {name: detector}\n")
    (training / "run.json").write_text("{}")
    (tmp_path / "of_somebody").mkdir()
    (tmp_path / "of_somebody/config.yaml").write_text("a: [unfinished")
    with pytest.raises(DataError, match=r"no evaluation is in .*training"):
        find_runs([training])
    RUN.write(training / "evaluation")
    assert [run.folder.name for run in find_runs([tmp_path])] == ["evaluation"]


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_runs([tmp_path / "nowhere"])
    folder = RUN.write(tmp_path / "run")
    with pytest.raises(DataError, match=r"run\.json is a file; give the folder of the run"):
        find_runs([folder / "run.json"])


def test_folders_of_ones_own_are_benchmarks_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Run(images({"ALL": (2, 2)}), benchmark="folder", title="Folder", data_root=f"/data/{name}").write(tmp_path / name)
    one, two = find_runs([tmp_path])
    assert one.benchmark == "folder:/data/one"
    assert (one.title, two.title) == ("Folder one", "Folder two")


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_a_damaged_record_is_named(tmp_path: Path, name: str) -> None:
    folder = RUN.write(tmp_path / "run")
    good = json.loads((folder / name).read_text())
    (folder / name).write_text('{"schema_version": 1, "che')
    with pytest.raises(DataError, match=rf"run/{name} cannot be read.*Evaluate again, or leave this run out"):
        find_runs([folder])
    (folder / name).write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(DataError, match=rf"run/{name}: \w+ is missing"):
        find_runs([folder])
    (folder / name).write_text("[]")
    with pytest.raises(DataError, match=rf"run/{name} has no schema_version"):
        find_runs([folder])
    (folder / name).write_text(json.dumps({**good, "schema_version": 99}))
    with pytest.raises(DataError, match=rf"run/{name}: schema_version 99 is newer than .*update mirror_pl"):
        find_runs([folder])


def test_a_config_that_cannot_be_read_is_named_where_a_run_is(tmp_path: Path) -> None:
    folder = RUN.write(tmp_path / "run")
    (folder / "config.yaml").write_text("a: [unfinished")
    with pytest.raises(DataError, match=r"config\.yaml cannot be read"):
        find_runs([folder])


def test_a_time_that_is_none_is_named(tmp_path: Path) -> None:
    Run(images({"a": (1, 1)}), finished="yesterday").write(tmp_path / "run")
    with pytest.raises(DataError, match=r"run\.json.*yesterday"):
        find_runs([tmp_path])


def test_a_table_that_is_damaged_or_another_one_is_named(tmp_path: Path) -> None:
    folder = RUN.write(tmp_path / "run")
    (run,) = find_runs([folder])
    table = run.read()
    path = folder / "predictions.parquet"
    whole = path.read_bytes()

    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"predictions\.parquet cannot be read"):
        run.read()
    pq.write_table(table.drop_columns("logit").append_column("score", table["p_fake"]), path)
    with pytest.raises(DataError, match="columns missing: logit; unknown: score"):
        run.read()
    pq.write_table(table.set_column(4, "label", table["label"].cast(pa.int64())), path)
    with pytest.raises(DataError, match="column label is int64, expected int8"):
        run.read()
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(DataError, match="holds no image"):
        run.read()
    seven = pa.array([7] * len(table), pa.int8())
    pq.write_table(table.set_column(4, table.schema.field("label"), seven), path)
    with pytest.raises(DataError, match="a label is neither 0, real, nor 1, fake"):
        run.read()
    nothing = pa.nulls(len(table), pa.float32())
    pq.write_table(table.set_column(7, table.schema.field("p_fake"), nothing), path)
    with pytest.raises(DataError, match="no finite p_fake"):
        run.read()
    path.unlink()
    with pytest.raises(DataError, match=r"predictions\.parquet cannot be read"):
        run.read()
