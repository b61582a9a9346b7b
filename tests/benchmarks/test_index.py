"""The index: which files, under which label and subset, in which order; and what is said of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirror_pl.benchmarks import Layout, Manifest, index_benchmark
from mirror_pl.benchmarks.index import BenchmarkIndex
from mirror_pl.errors import DataError

SUFFIXES = {".png", ".jpg"}
MANIFEST = Manifest(
    name="x",
    title="Benchmark X",
    group="other",
    layouts={"published": Layout(("x/test",), {"a": ("a",), "B": ("b",), "c": ("c",)})},
    published_key="X",
    source="-",
    licence="-",
    how_to_get="Ask its authors.",
    citation="-",
)


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode("utf-8", "surrogateescape"))


def index(root: Path, manifest: Manifest = MANIFEST) -> BenchmarkIndex:
    return index_benchmark(manifest, root, SUFFIXES)


def table(found: BenchmarkIndex) -> list[tuple[str, str, int]]:
    ids, subsets = found.rows()
    return [
        (found.paths[image], found.subsets[subset], int(found.labels[image]))
        for image, subset in zip(ids, subsets, strict=True)
    ]


def test_labels_at_any_depth_and_a_fixed_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "x/test/b/1_fake/2.PNG",
        "x/test/b/1_fake/10.png",
        "x/test/b/0_real/deep/er/3.jpg",
        "x/test/a/horse/0_real/1.jpg",
        "x/test/a/horse/1_fake/1.jpg",
        "x/test/a/cat/1_fake/1.jpg",
    )
    found = index(tmp_path)
    assert table(found) == [
        ("x/test/a/cat/1_fake/1.jpg", "a", 1),
        ("x/test/a/horse/0_real/1.jpg", "a", 0),
        ("x/test/a/horse/1_fake/1.jpg", "a", 1),
        ("x/test/b/0_real/deep/er/3.jpg", "B", 0),
        ("x/test/b/1_fake/10.png", "B", 1),
        ("x/test/b/1_fake/2.PNG", "B", 1),
    ]
    assert found.sizes.tolist() == [len(path) for path in found.paths]
    assert found.subsets == ("a", "B")
    assert list(found.missing) == ["c"]


def test_a_benchmark_without_subsets(tmp_path: Path) -> None:
    whole = Manifest(**{**MANIFEST.__dict__, "layouts": {"published": Layout(("x",), {"ALL": (".",)})}})
    touch(tmp_path, "x/0_real/1.jpg", "x/more/1_fake/1.jpg")
    assert table(index(tmp_path, whole)) == [("x/0_real/1.jpg", "ALL", 0), ("x/more/1_fake/1.jpg", "ALL", 1)]


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"x/test/a/0_real/{i}.gif" for i in range(5)))
    touch(tmp_path, "x/test/a/0_real/1.jpg", "x/test/a/stray.jpg", "x/test/a/README", "x/test/c/1_fake/notes.txt")
    found = index(tmp_path)
    assert found.passed_over.counts == {
        "suffix .gif": 5,
        "suffix (none)": 1,
        "no folder 0_real or 1_fake above": 1,
        "suffix .txt": 1,
    }
    assert found.passed_over.examples["suffix .gif"] == [f"x/test/a/0_real/{i}.gif" for i in range(3)]
    assert found.passed_over.examples["no folder 0_real or 1_fake above"] == ["x/test/a/stray.jpg"]
    assert "no folder" in found.missing["B"]
    assert "no image in a folder 0_real or 1_fake" in found.missing["c"]


def test_odd_names_and_links(tmp_path: Path) -> None:
    odd = ["a b.jpg", "new\nline.jpg", os.fsdecode(b"\xff\xfe.jpg"), "上.jpg"]
    touch(tmp_path, *(f"x/test/a/0_real/{name}" for name in odd))
    (tmp_path / "x/test/a/0_real/folder.png").mkdir()
    (tmp_path / "x/test/a/0_real/loop").symlink_to(tmp_path / "x/test")
    (tmp_path / "x/test/a/1_fake").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "x/test/a/0_real/dangling.jpg").symlink_to("nowhere")
    (tmp_path / "x/test/a/0_real/self.jpg").symlink_to("self.jpg")
    (tmp_path / "x/test/a/0_real/self").symlink_to("self")
    touch(tmp_path, "elsewhere/1.jpg")
    found = index(tmp_path)
    names = [path.removeprefix("x/test/a/") for path in found.paths]
    expected = [f"0_real/{name}" for name in sorted([*odd, "folder.png", "dangling.jpg", "self.jpg"])] + ["1_fake/1.jpg"]
    assert names == expected, "nothing twice through the loop"
    assert found.sizes[names.index("0_real/dangling.jpg")] == -1
    assert list(found.unreadable) == ["x/test/a/0_real/self"]
    assert len(found.fingerprint()) == 64


def test_the_fingerprint_is_of_the_data_alone(tmp_path: Path) -> None:
    for root in ("one", "two"):
        touch(tmp_path / root, "x/test/a/0_real/1.jpg", "x/test/a/1_fake/1.jpg")
    first, second = index(tmp_path / "one").fingerprint(), index(tmp_path / "two").fingerprint()
    assert first == second
    (tmp_path / "two/x/test/a/0_real/1.jpg").write_bytes(b"other")
    assert index(tmp_path / "two").fingerprint() != first


def test_a_folder_that_cannot_be_listed(unprivileged_folder: Path) -> None:
    touch(unprivileged_folder, "x/test/a/0_real/1.jpg", "x/test/a/1_fake/1.jpg")
    closed = unprivileged_folder / "x/test/a/1_fake"
    closed.chmod(0)
    try:
        found = index(unprivileged_folder)
    finally:
        closed.chmod(0o700)
    assert found.unreadable == {"x/test/a/1_fake": "Permission denied"}
    assert found.paths == ["x/test/a/0_real/1.jpg"]


def error_of(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        index(root)
    return str(caught.value)


def test_missing_folders_are_explained(tmp_path: Path) -> None:
    assert "does not exist; give the folder that holds the images as data_root=" in error_of(tmp_path / "absent")
    touch(tmp_path, "file")
    assert "is a file, not a folder" in error_of(tmp_path / "file")
    message = error_of(tmp_path)
    assert "Benchmark X: no folder x/test in" in message
    assert "a/**/{0_real,1_fake}/*" in message
    assert "Ask its authors." in message
    touch(tmp_path / "x/test", "a/0_real/1.gif", "b/1.jpg")
    message = error_of(tmp_path)
    assert "none of its 3 subsets has an image" in message
    assert "'suffix .gif': 1" in message
    message = error_of(tmp_path / "x/test")
    assert "its subsets a, B are in" in message
    assert f"give data_root={tmp_path}." in message
