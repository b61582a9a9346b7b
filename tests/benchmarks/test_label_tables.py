"""Labels from a table: the same as those of folders, whichever way the pictures lie, and a word on what does not fit."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from shard_files import (
    FORMS,
    golden_pictures,
    in_folders,
    settings_of,
    structs,
    write_csv,
    write_files,
    write_parquet,
    write_zip,
)

from mirror_pl.benchmarks import BenchmarkIndex, index_benchmark, parse_label_table, parse_manifest
from mirror_pl.benchmarks.inspect import find_duplicates, inspect_subsets
from mirror_pl.config.build import build_manifest, label_table
from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError, MirrorError
from mirror_pl.images import IMAGE_SUFFIXES

ANY = [("a.png", 0, b"real a"), ("b.png", 0, b"real b"), ("c.jpg", 1, b"fake c"), ("d.png", 1, b"fake d")]


def index(root: Path, labels: Any = None, **kwargs: Any) -> BenchmarkIndex:
    manifest = build_manifest(compose("eval", ["benchmark=folder"]))
    table = label_table(labels, "labels")
    return index_benchmark(manifest, root, IMAGE_SUFFIXES, labels=table, **kwargs)


def contents(found: BenchmarkIndex) -> dict[str, tuple[int, bytes]]:
    return {path: (int(found.labels[i]), found.source(i).read_bytes()) for i, path in enumerate(found.paths)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_bytes_and_labels_in_the_same_order(tmp_path: Path, form: str) -> None:
    pictures = golden_pictures()
    FORMS[form](tmp_path, pictures)
    settings = dict(setting.split("=") for setting in settings_of(form, tmp_path))
    found = index(tmp_path, settings.get("labels"))
    assert [(label, content) for label, content in contents(found).values()] == [(p[1], p[2]) for p in pictures]
    if form not in ("no_path", "binary"):
        assert [Path(path).name for path in found.paths] == [name for name, _, _ in pictures]
    assert not found.unreadable
    if form != "table":
        assert not found.passed_over.counts


def test_a_kept_listing_of_rows_is_equal_until_the_file_changes(tmp_path: Path) -> None:
    def write(pictures: list[tuple[str, int, bytes]]) -> BenchmarkIndex:
        columns = {
            "image": structs(pictures, paths=True),
            "label": ["x" if p[0] == "b.png" else str(p[1]) for p in pictures],
        }
        file = write_parquet(tmp_path / "data/x.parquet", columns)
        write_zip(file.with_name("y.zip"), [("../a.png", b""), ("0_real/y.png", b"y")])
        for path in (file, file.with_name("y.zip"), file.parent):
            os.utime(path, (time.time() - 60, time.time() - 60))
        return index(tmp_path / "data", cache=tmp_path / "cache")

    first, second = write(ANY), index(tmp_path / "data", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert contents(first) == contents(second)
    assert len(first) == 4
    assert first.passed_over == second.passed_over
    assert set(first.passed_over.counts) == {"a label that is not known: 'x'", "a name that leads out of the shard, by .."}
    assert first.fingerprint() == second.fingerprint() == index(tmp_path / "data").fingerprint()
    assert write([(*picture[:2], picture[2] * 100) for picture in ANY]).fingerprint() != first.fingerprint()


def test_folders_decide_before_a_column_and_a_named_column_before_folders(tmp_path: Path) -> None:
    for folder in ("nature", "ai"):
        columns = {"image": structs(ANY, paths=True), "label": [17, 3, 4, 1], "made": [0, 0, 1, 1]}
        write_parquet(tmp_path / folder / "x.parquet", columns)
    assert index(tmp_path).labels.tolist() == [1] * 4 + [0] * 4
    found = index(tmp_path, {"label": "made", "values": {1: "real", 0: "fake"}})
    assert found.labels.tolist() == [0, 0, 1, 1] * 2
    assert [Path(path).name for path in found.paths][:4] == ["c.jpg", "d.png", "a.png", "b.png"]


def test_duplicates_and_formats_of_rows(tmp_path: Path) -> None:
    rows = [("", 0, b"same"), ("", 1, b"same"), ("", 0, b"else"), ("", 1, b"other")]
    write_parquet(tmp_path / "x.parquet", {"image": structs(rows, paths=False), "label": [0, 1, 0, 1]})
    write_zip(tmp_path / "y.zip", [("ai/1.png", b"same"), ("nature/2.png", b"else")])
    found = index(tmp_path)
    same = {("x.parquet/0", "x.parquet/1"), ("x.parquet/0", "y.zip/ai/1.png")}
    assert set(find_duplicates(found)) == same
    assert inspect_subsets(found)[0].formats == {"real": {"no suffix": 2, "png": 1}, "fake": {"no suffix": 2, "png": 1}}


def test_bad_shards_are_named_and_the_rest_is_there(tmp_path: Path) -> None:
    write_zip(tmp_path / "good.zip", in_folders(ANY))
    (tmp_path / "bad.zip").write_bytes((tmp_path / "good.zip").read_bytes()[:-9])
    write_parquet(tmp_path / "no.parquet", {"path": ["a.png"]})
    found = index(tmp_path)
    assert len(found) == 4
    assert set(found.unreadable) == {"bad.zip", "no.parquet"}
    assert "its columns are path" in found.unreadable["no.parquet"]


@pytest.mark.parametrize(
    ("rows", "given"),
    [
        ("path,label\na.png,0\nb.png,0\nc.jpg,1\nd.png,1", {}),
        ("\ufeffn,Image_Path , LABEL\n1,./in/a.png,Real\n2,in/b.png,nature\n3,in/c.jpg,FAKE\n4,d.png,ai\n\n", {}),
        ("filename,is_fake\na,False\nx.zip/in/b,False\nc,True\nd.png,True", {}),
        (
            "file,who\na.png,Camera\nin\\b.png,camera\nc,it\nd,it",
            {"label": "who", "values": {"camera": "real", "it": "fake"}},
        ),
        ("label,a,b\n9,a.png,0\n9,b.png,0\n9,c.jpg,1\n9,d.png,1", {"path": "a", "label": "B"}),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_rows_find_their_images(tmp_path: Path, rows: str, given: Mapping[str, Any], zipped: bool) -> None:
    members = [(f"in/{name}", content) for name, _, content in ANY]
    if zipped:
        write_zip(tmp_path / "data/x.zip", members)
    else:
        write_files(tmp_path / "data/x.zip", members)  # a folder of that name
    (tmp_path / "t.csv").write_text(rows)
    found = index(tmp_path / "data", {"file": str(tmp_path / "t.csv"), **given})
    assert contents(found) == {f"x.zip/in/{name}": (label, content) for name, label, content in ANY}
    assert not found.passed_over.counts


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    write_files(tmp_path / "data", [(f"1_fake/{name}", content) for name, _, content in ANY])
    (tmp_path / "t.csv").write_text("path,label\na.png,0\nb.png,maybe\nc.jpg,1\ngone.png,1\n1_fake/gone.png,0")
    found = index(tmp_path / "data", str(tmp_path / "t.csv"))
    assert contents(found) == {"1_fake/a.png": (0, b"real a"), "1_fake/c.jpg": (1, b"fake c")}
    assert found.passed_over.counts == {
        "a label that is not known: 'maybe'": 1,
        "no row in t.csv": 1,
        "a row in t.csv but no image": 2,
    }
    assert found.class_names == ("",)


def test_the_longest_row_that_an_image_ends_like_is_its_own(tmp_path: Path) -> None:
    write_files(tmp_path / "data", [("a.png", b"1"), ("x/a.png", b"2"), ("y/x/a.png", b"3")])
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,0\nx/a.png,1\ny/x/a.png,0")
    assert contents(index(tmp_path / "data", str(table))) == {
        "a.png": (0, b"1"),
        "x/a.png": (1, b"2"),
        "y/x/a.png": (0, b"3"),
    }
    table.write_text("path,label\nx/a.png,1\na.png,0")
    with pytest.raises(DataError, match=r"t\.csv: the row of x/a\.png is of two images, x/a\.png and y/x/a\.png"):
        index(tmp_path / "data", str(table))


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        ("a,b\n1,2", {}, r"no column path, image_path, .*; its columns are a, b. Name one by labels\.path"),
        ("path,b\n1,2", {}, r"no column label, labels, .*; its columns are path, b. Name one by labels\.label"),
        ("path,label\n1,2", {"label": "real"}, "no column real; its columns are path, label"),
        ("", {}, "its columns are none"),
        ("path,label\na.png,0\nb.png,1\n./a.png,1", {}, "a.png is 0 in line 2, and 1 in line 4"),
        ("path,label\na.png", {}, "line 2 has 1 of 2 columns"),
        ("path,label\nzz.png,0", {}, r"Passed over: {'no row in t.csv': 4}. Rows of t.csv are of, say, zz.png"),
    ],
)
def test_a_table_that_does_not_fit_says_what_it_is_and_what_to_do(
    tmp_path: Path, rows: str, given: Mapping[str, str], message: str
) -> None:
    write_files(tmp_path / "data", [(name, content) for name, _, content in ANY])
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        index(tmp_path / "data", {"file": str(tmp_path / "t.csv"), **given})
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff,1")
    with pytest.raises(DataError, match=r"labels: .*t\.csv cannot be read: .*utf-8"):
        index(tmp_path / "data", str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match=r"no\.csv cannot be read: No such file"):
        index(tmp_path / "data", str(tmp_path / "no.csv"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fil": "x"}, "labels: unknown key 'fil'. Did you mean file"),
        ({"file": 3}, "labels: file must be a text, got 3"),
        ({"values": ["real"]}, "labels: values must be real or fake by value"),
        ({"values": {"0": "true"}}, "labels: a label must be one of real, fake, got 'true'"),
        (7, "labels: expected keys and values, got 7"),
    ],
)
def test_a_setting_that_is_none(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_label_table(given, "labels")


def test_a_manifest_may_have_a_table(tmp_path: Path) -> None:
    texts = dict.fromkeys(("title", "published_key", "source", "licence", "how_to_get", "citation"), "x")
    layout = {"folders": "set", "shards": True, "table": {"file": "set/labels.csv", "label": "kind"}}
    manifest = parse_manifest({"name": "x", "group": "other", "subsets": ["one", "two"], "layouts": {"a": layout}, **texts})
    for subset in ("one", "two"):
        write_zip(tmp_path / "set" / subset / "x.zip", [(f"{subset}_{name}", content) for name, _, content in ANY])
    pictures = [(f"{subset}_{name}", label, b"") for subset in ("one", "two") for name, label, _ in ANY]
    write_csv(tmp_path / "set/labels.csv", pictures, "image,kind")
    found = index_benchmark(manifest, tmp_path, IMAGE_SUFFIXES)
    assert found.subsets == ("one", "two")
    assert found.labels.tolist() == [0, 0, 1, 1] * 2
    assert [Path(path).name for path in found.paths] == [name for name, _, _ in pictures]
    (tmp_path / "set/two/x.zip").unlink()
    assert index_benchmark(manifest, tmp_path, IMAGE_SUFFIXES).passed_over.counts["a row in labels.csv but no image"] == 4
    with pytest.raises(MirrorError, match="tar,zip,parquet"):
        index_benchmark(manifest, tmp_path / "set", IMAGE_SUFFIXES)


def test_shared_reals_may_lie_in_shards(tmp_path: Path) -> None:
    write_files(tmp_path / "data/1_fake", [(name, content) for name, _, content in ANY])
    write_zip(tmp_path / "reals/x.zip", [("a.png", b"1"), ("1_fake/b.png", b"2"), ("any/c.png", b"3")])
    found = index(tmp_path / "data", reals=tmp_path / "reals")
    assert [found.source(i).read_bytes() for i in range(4, len(found))] == [b"1", b"3"]
    assert found.labels.tolist() == [1] * 4 + [0] * 2
