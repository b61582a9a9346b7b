"""The same pictures in every kind of file give the same scores to the bit, and what is wrong with one is said, and no more."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from golden_set import SMALL
from shard_files import FORMS, golden_pictures, in_folders, settings_of, structs, write_parquet, write_zip

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import predict as prediction
from mirror_pl.jobs.run_images import RunPictures

DETECTOR = [f"checkpoint={SMALL.checkpoint}", f"backbone.path={SMALL.backbone_path}", "batch_size=4"]


def evaluate(output: Path, *overrides: str) -> Path:
    settings = [f"output_dir={output}", "trainer.accelerator=cpu", "num_workers=0", *overrides]
    evaluation.run(compose("eval", settings), named=[setting.partition("=")[0] for setting in settings])
    return output


def predict(inputs: list[str], output: str, *more: str) -> list[dict[str, Any]]:
    settings = [f"input=[{','.join(inputs)}]", f"output={output}", "device=cpu", "num_workers=0", *DETECTOR, *more]
    prediction.run(compose("predict", settings))
    return rows_of(output)


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(output).read_text().splitlines()]


def record_of(run: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / name).read_text())
    return record


def scores_of(run: Path) -> list[tuple[Any, ...]]:
    table = pq.read_table(run / "predictions.parquet")
    return list(zip(*(table[name].to_pylist() for name in ("label", "status", "p_fake", "logit")), strict=True))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    root = tmp_path_factory.mktemp("files")
    FORMS["files"](root / "data", golden_pictures())
    return scores_of(evaluate(root / "run", "benchmark=folder", f"data_root={root / 'data'}", *DETECTOR))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "files"])
def test_an_evaluation_has_the_scores_of_files(tmp_path: Path, form: str, expected: list[tuple[Any, ...]]) -> None:
    FORMS[form](tmp_path / "data", golden_pictures())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    run = evaluate(tmp_path / "run", "benchmark=folder", *settings_of(form, tmp_path / "data"), *DETECTOR)
    assert len(expected) == len(golden_pictures()) > 20
    assert scores_of(run) == expected
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before
    if form in ("table", "no_path"):
        again = evaluate(tmp_path / "again", f"repeat={run}", f"output_dir={tmp_path / 'again'}")
        assert record_of(again, "run.json")["repeats"]["identical"] == len(expected)
    pictures = RunPictures(tmp_path / "data")
    for path in pq.read_table(run / "predictions.parquet")["path"].to_pylist()[:3]:
        assert pictures.open(path).size > (1, 1)


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Path], str]]:
    """Puts a folder where only fsspec reaches, and returns its URL."""
    pytest.importorskip("upath", reason="mirror_pl[remote] is not installed")
    import fsspec

    memory = fsspec.filesystem("memory")

    def put(folder: Path) -> str:
        memory.put(str(folder), f"/bucket/{folder.name}", recursive=True)
        return f"memory://bucket/{folder.name}"

    yield put
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    "form", ["files", *(pytest.param(form, marks=pytest.mark.slow) for form in ("tar", "deflated")), "struct"]
)
def test_data_by_url_has_the_scores_of_files(
    tmp_path: Path, form: str, expected: list[tuple[Any, ...]], elsewhere: Callable[[Path], str]
) -> None:
    FORMS[form](tmp_path / "data", golden_pictures())
    url = elsewhere(tmp_path / "data")
    settings = ["benchmark=folder", f"data_root={url}", f"cache_dir={tmp_path / 'cache'}", *DETECTOR]
    assert scores_of(evaluate(tmp_path / "run", *settings)) == expected
    assert record_of(tmp_path / "run", "run.json")["data"]["root"] == url
    here, there = ([place if form == "files" else f"{place}/*"] for place in (str(tmp_path / "data"), url))
    local, remote = predict(here, "here.jsonl"), predict(there, "there.jsonl", "num_workers=2")
    assert [row["logit"] for row in remote] == [row["logit"] for row in local]
    assert [row["image_path"] for row in remote] == [row["image_path"].replace(str(tmp_path / "data"), url) for row in local]


def test_a_url_that_is_not_there(tmp_path: Path, elsewhere: Callable[[Path], str]) -> None:
    with pytest.raises(ConfigError, match=r"input: memory://bucket/nothing\.tar does not exist"):
        predict(["memory://bucket/nothing.tar"], "out.jsonl")
    with pytest.raises(DataError, match="data_root: memory://bucket/nothing does not exist"):
        evaluate(tmp_path / "run", "benchmark=folder", "data_root=memory://bucket/nothing", *DETECTOR)
    with pytest.raises(ConfigError, match=r"nowhere://x/y.tar cannot be reached: .*pip install 'mirror_pl\[remote\]'"):
        predict(["nowhere://x/y.tar"], "out.jsonl")


def test_a_cache_of_crops_tells_rows_apart(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    FORMS["no_path"](tmp_path / "data", golden_pictures())
    os.utime(tmp_path / "data/a.parquet", (1, 1))
    for run in ("one", "two"):
        settings = ["benchmark=folder", f"data_root={tmp_path / 'data'}", f"cache_dir={tmp_path / 'cache'}", *DETECTOR]
        assert scores_of(evaluate(tmp_path / run, *settings)) == expected


@pytest.mark.parametrize("form", ["tar", "stored", "deflated", "table", "struct", "no_path", "binary"])
def test_a_prediction_has_the_scores_of_files(tmp_path: Path, form: str) -> None:
    pictures = golden_pictures()
    FORMS["files"](Path("files"), pictures)
    FORMS[form](Path("data"), pictures)
    (shard,) = (path for path in Path("data").iterdir() if path.suffix != ".csv")
    names = {"list.txt": [f"files/{('0_real', '1_fake')[label]}/{name}" for name, label, _ in pictures]}
    Path("list.txt").write_text("\n".join(names["list.txt"]))
    files = predict(["list.txt"], "files.jsonl")
    shards = predict([str(shard)], "shards.jsonl", "num_workers=2")
    if form == "table":  # flat: all by name
        order = sorted(range(len(pictures)), key=lambda i: pictures[i][0])
        Path("list.txt").write_text("\n".join(names["list.txt"][i] for i in order))
        files = predict(["list.txt"], "again.jsonl")
    assert [{**row, "image_path": ""} for row in shards] == [{**row, "image_path": ""} for row in files]
    assert all(row["image_path"].startswith(f"{shard}/") for row in shards)


def test_what_is_wrong_is_a_row_and_the_rest_is_scored(tmp_path: Path) -> None:
    pictures = golden_pictures()[:6]
    good = write_zip(Path("good.zip"), in_folders(pictures), zipfile.ZIP_STORED)
    content = bytearray(good.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the last member is encrypted, says the directory
    Path("bad.zip").write_bytes(content)
    Path("cut.zip").write_bytes(content[:-50])
    write_parquet(Path("none.parquet"), {"path": ["a.png"]})
    rows = structs([*pictures[:2], ("z.png", 0, b"no image")], paths=True).to_pylist()
    write_parquet(Path("some.parquet"), {"image": [*rows, None, {"bytes": None, "path": "null.png"}]})
    with pytest.raises(IncompleteRunError, match="6 of the 13 pictures have no score"):
        predict(["bad.zip", "cut.zip", "none.parquet", "some.parquet"], "out.jsonl")
    found = rows_of("out.jsonl")
    reasons = {row["image_path"]: row["reason"] for row in found if row["status"] != "ok"}
    assert [row["status"] for row in found].count("ok") == 7
    encrypted = f"bad.zip/0_real/{pictures[-1][0]}"
    assert {name: reason.partition(";")[0] for name, reason in reasons.items()} == {
        encrypted: "OSError: an encrypted member of the zip",
        "cut.zip": "OSError: not a zip that can be read: File is not a zip file",
        "none.parquet": "OSError: no column of images, which is binary or a struct with binary 'bytes'",
        "some.parquet/z.png": "UnidentifiedImageError: cannot identify the file",
        "some.parquet/3": "OSError: row 3 of some.parquet holds no image: it is null",
        "some.parquet/null.png": "OSError: row 4 of some.parquet holds no image: it is null",
    }
    assert sorted(path.name for path in Path.cwd().iterdir()) == sorted(
        ["good.zip", "bad.zip", "cut.zip", "none.parquet", "some.parquet", "out.jsonl", "out.jsonl.run.json"]
    )


def test_an_evaluation_names_what_is_wrong(tmp_path: Path) -> None:
    pictures = golden_pictures()
    write_zip(tmp_path / "data/good.zip", [*in_folders(pictures), ("0_real/../../out.png", b"x")])
    (tmp_path / "data/cut.zip").write_bytes((tmp_path / "data/good.zip").read_bytes()[:-9])
    with pytest.raises(IncompleteRunError, match=r"cut\.zip"):
        evaluate(tmp_path / "run", "benchmark=folder", f"data_root={tmp_path / 'data'}", *DETECTOR)
    images = record_of(tmp_path / "run", "metrics.json")
    assert images["unreadable_folders"] == {"cut.zip": "not a zip that can be read: File is not a zip file"}
    assert images["passed_over"]["a name that leads out of the shard, by .."]["files"] == 1
    assert len(scores_of(tmp_path / "run")) == len(pictures)
    assert not (tmp_path / "out.png").exists()
