"""Benchmarks whose layout is known from documents only: a tiny tree of each is read as its manifest says."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_trees import DOCUMENTED, write
from shard_files import write_parquet, write_zip

from mirror_pl.benchmarks import BenchmarkIndex, LabelTable, index_benchmark, load_manifest
from mirror_pl.errors import DataError
from mirror_pl.images import IMAGE_SUFFIXES
from mirror_pl.locate import config_dir


def index(name: str, root: Path) -> BenchmarkIndex:
    return index_benchmark(load_manifest(name), root, IMAGE_SUFFIXES)


def rows_of(found: BenchmarkIndex) -> list[tuple[str, int, str]]:
    ids, subsets = found.rows()
    return sorted(
        (found.subsets[subset], int(found.labels[image]), found.source(image).read_bytes().decode())
        for image, subset in zip(ids, subsets, strict=True)
    )


@pytest.mark.parametrize("name", DOCUMENTED)
def test_it_says_that_we_have_not_seen_it(name: str) -> None:
    text = " ".join((config_dir() / "benchmark" / f"{name}.yaml").read_text(encoding="utf-8").split())
    assert "not seen by us" in text.replace(" # ", " ")


def test_forensynths_has_folders_of_classes_and_without(tmp_path: Path) -> None:
    paths = [f"CNN_synth_testset/{s}/{label}/0.png" for s in ("progan/horse", "crn") for label in ("0_real", "1_fake")]
    found = index("forensynths", write(tmp_path, {path: ("", 0, path) for path in paths}))
    labels = [(subset, label) for subset, label, _ in rows_of(found)]
    assert labels == [("crn", 0), ("crn", 1), ("progan", 0), ("progan", 1)]
    assert len(found.missing) == 11


@pytest.mark.parametrize(("name", "folder"), [("dda_coco", "DDA-COCO"), ("mnw", "MNW"), ("itw_sm", "itw-sm")])
@pytest.mark.parametrize("names", [("0_real", "1_fake"), ("real", "fake"), ("nature", "ai")])
@pytest.mark.parametrize("shard", ["", "all.tar/"])
def test_folders_or_shards_of_reals_and_fakes(
    name: str, folder: str, names: tuple[str, str], shard: str, tmp_path: Path
) -> None:
    tree = {f"{folder}/{shard}x/{part}/0.png": ("ALL", label, part) for label, part in enumerate(names)}
    assert rows_of(index(name, write(tmp_path, tree))) == [("ALL", 0, names[0]), ("ALL", 1, names[1])]


@pytest.mark.parametrize("shard", ["", "model.zip"])
def test_t2i_corebench_has_fakes_only(shard: str, tmp_path: Path) -> None:
    base = tmp_path / "T2I-CoReBench-Images"
    if shard:
        write_zip(base / shard, [("FLUX/0.png", b"flux")])
    else:
        write(tmp_path, {"T2I-CoReBench-Images/FLUX/0.png": ("ALL", 1, "flux")})
    assert rows_of(index("t2i_corebench", tmp_path)) == [("ALL", 1, "flux")]


def test_openfake_is_labelled_by_words(tmp_path: Path) -> None:
    images = [{"bytes": text, "path": None} for text in (b"a", b"b")]
    columns = {"image": images, "prompt": ["", ""], "label": ["real", "fake"], "model": ["", "sd"]}
    write_parquet(tmp_path / "OpenFake/test/test-00000.parquet", columns)
    assert rows_of(index("openfake", tmp_path)) == [("ALL", 0, "a"), ("ALL", 1, "b")]


def test_community_forensics_is_labelled_by_numbers(tmp_path: Path) -> None:
    columns = {"image_name": ["1.png", "2.png"], "image_data": [b"a", b"b"], "label": [0, 1], "model_name": ["", "sd"]}
    write_parquet(tmp_path / "CommunityForensics-Eval/data/0.parquet", columns)
    assert rows_of(index("community_forensics", tmp_path)) == [("ALL", 0, "a"), ("ALL", 1, "b")]


@pytest.mark.parametrize("packed", [True, False])
def test_ntire2026_is_labelled_by_its_table(packed: bool, tmp_path: Path) -> None:
    base = tmp_path / "NTIRE-RobustAIGenDetection-val"
    if packed:
        write_zip(base / "val.zip", [("images/ab.jpg", b"a"), ("images/cd.jpg", b"b")])
    else:
        write(base, {"images/ab.jpg": ("ALL", 0, "a"), "images/cd.jpg": ("ALL", 1, "b")})
    (base / "labels.csv").write_text(",image_name,label,is_distorted\n0,ab,0,0\n1,cd,1,1\n")
    assert rows_of(index("ntire2026", tmp_path)) == [("clean", 0, "a"), ("distorted", 1, "b")]


def test_a_column_tells_subsets_apart(tmp_path: Path) -> None:
    base = tmp_path / "NTIRE-RobustAIGenDetection-val"
    write(base, {f"images/{name}": ("", 0, name) for name in ("a.jpg", "b.jpg", "c.jpg", "no_row.jpg", "x.txt")})
    table = base / "labels.csv"
    table.write_text("image_name,label,is_distorted\na,0,False\nb,1,0\nc,1,0\ngone,1,1\n")
    found = index("ntire2026", tmp_path)
    assert rows_of(found) == [("clean", 0, "a.jpg"), ("clean", 1, "b.jpg"), ("clean", 1, "c.jpg")]
    assert set(found.missing) == {"distorted"}
    assert {reason: count for reason, count in found.passed_over.counts.items() if "suffix .csv" not in reason} == {
        "suffix .txt": 1, "no row in labels.csv": 1, "a row in labels.csv but no image": 1,
    }  # fmt: skip
    for rows, message in (
        ("image_name,label\na,0\n", "no column is_distorted; its columns are image_name, label"),
        ("image_name,label,is_distorted\na,0,2\n", "a has is_distorted '2'; expected one of 0, false, 1, true"),
        ("image_name,label,is_distorted\na,0,0\na,0,1\n", "a has is_distorted 0 in line 2, and 1 in line 3"),
    ):
        table.write_text(rows)
        with pytest.raises(DataError, match=message):
            index("ntire2026", tmp_path)


def test_labels_of_ones_own_tell_its_subsets_apart_too(tmp_path: Path) -> None:
    base = write(tmp_path, {f"NTIRE-RobustAIGenDetection-val/{name}.jpg": ("", 0, name) for name in "ab"})
    (tmp_path / "own.csv").write_text("name,ai,is_distorted\na,1,1\nb,0,0\n")
    manifest = load_manifest("ntire2026")
    found = index_benchmark(manifest, base, IMAGE_SUFFIXES, labels=LabelTable(str(tmp_path / "own.csv")))
    assert rows_of(found) == [("clean", 0, "b"), ("distorted", 1, "a")]
    with pytest.raises(DataError, match="ntire2026 has its subsets in a table; give it as"):
        index_benchmark(manifest, base, IMAGE_SUFFIXES, labels=LabelTable(label="label"))
