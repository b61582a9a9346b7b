"""Tar shards read in place: the images, labels and bytes that unpacking would give, and no silence about damaged ones."""

from __future__ import annotations

import os
import re
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest
from benchmark_trees import write_shard

from mirror_pl.benchmarks import BenchmarkIndex, index_benchmark
from mirror_pl.benchmarks.inspect import find_duplicates
from mirror_pl.config.build import build_manifest
from mirror_pl.config.command import compose
from mirror_pl.errors import DataError

MEMBERS = [
    ("flux/pixel/1_fake/b.jpg", b"fake b"),
    ("flux/pixel/1_fake/b.json", b"{}"),
    ("./flux/pixel/0_real/a.jpg", b"real a"),
    ("flux/pixel/1_fake/a.JPG", b"fake a"),
    ("a/very/long/" + "key/" * 40 + "0_real/" + "n" * 120 + ".png", b"real with a long name"),
    ("flux/semantic/1_fake/caf\u00e9 \n.png", b"fake with an odd name"),
]


def index(root: Path, name: str = "aigi_now", **kwargs: Path) -> BenchmarkIndex:
    manifest = build_manifest(compose("eval", [f"benchmark={name}"]))
    return index_benchmark(manifest, root, {".png", ".jpg"}, **kwargs)


def contents(found: BenchmarkIndex) -> dict[str, tuple[int, bytes]]:
    return {path: (int(found.labels[i]), found.source(i).read_bytes()) for i, path in enumerate(found.paths)}


def test_shards_give_what_unpacking_gives(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "packed/AIGI-Now/data/000.tar", MEMBERS)
    unpacked = tmp_path / "unpacked/AIGI-Now/data/000.tar.unpacked"
    with tarfile.open(shard) as opened:
        opened.extractall(unpacked, filter="data")
    packed, plain = index(tmp_path / "packed"), index(tmp_path / "unpacked")
    expected = {path.replace("000.tar.unpacked", "000.tar"): value for path, value in contents(plain).items()}
    assert contents(packed) == expected
    assert len(packed) == 5
    assert packed.layouts == {"ALL": "official"}
    assert plain.layouts == {"ALL": "published"}
    assert packed.passed_over.counts == plain.passed_over.counts == {"suffix .json": 1}
    assert list(packed.sizes) == [len(content) for _, content in contents(packed).values()]
    assert (packed.mtimes == shard.stat().st_mtime_ns).all()


def test_unpacked_images_are_not_counted_again_in_their_shard(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "AIGI-Now/000.tar", MEMBERS)
    with tarfile.open(shard) as opened:
        opened.extractall(shard.parent, filter="data")
    found = index(tmp_path)
    assert len(found) == 5
    assert found.shards == ()
    assert found.passed_over.counts["suffix .tar"] == 1


def test_a_member_written_twice_counts_once_as_its_last(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", [("0_real/a.png", b"old"), ("1_fake/a.png", b"fake"), ("0_real/a.png", b"new!")])
    assert contents(index(tmp_path, "folder")) == {"x.tar/0_real/a.png": (0, b"new!"), "x.tar/1_fake/a.png": (1, b"fake")}


def test_links_in_a_shard(tmp_path: Path) -> None:
    """A hard link is an image of its own, as it is once unpacked; a symbolic link is passed over, and counted."""
    shard = tmp_path / "x.tar"
    with tarfile.open(shard, "w") as opened:
        for folder in ("0_real", "1_fake"):
            first = tarfile.TarInfo(f"{folder}/a.png")
            first.size = 5
            opened.addfile(first, BytesIO(b"image"))
            for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
                link = tarfile.TarInfo(f"{folder}/{name}")
                link.type, link.linkname = kind, f"{folder}/a.png"
                opened.addfile(link)
    found = index(tmp_path, "folder")
    assert contents(found) == {
        f"x.tar/{f}/{n}": (i, b"image") for i, f in enumerate(("0_real", "1_fake")) for n in ("a.png", "b.png")
    }
    assert found.passed_over.counts == {"suffix .png": 2}


def test_a_shard_is_no_class(tmp_path: Path) -> None:
    write_shard(tmp_path / "s/x.tar", [("0_real/a.png", b"a"), ("horse/1_fake/b.png", b"b"), ("1_fake/c.png", b"c")])
    found = index(tmp_path, "folder")
    assert [found.class_names[i] for i in found.class_ids] == ["", "", "horse"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", [("0_real/a.png", b"a"), ("1_fake/b.png", b"b")])
    os.mkfifo(tmp_path / "pipe.tar")
    assert index(tmp_path, "folder").unreadable == {"pipe.tar": "a pipe or device, not a file"}


def test_a_kept_listing_of_shards_is_equal_until_a_shard_changes(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "data/AIGI-Now/000.tar", MEMBERS)
    for path in (shard, shard.parent):
        os.utime(path, (time.time() - 60, time.time() - 60))
    first, second = (index(tmp_path / "data", cache=tmp_path / "cache") for _ in range(2))
    assert len(list((tmp_path / "cache").iterdir())) == 2, "one listing without and one with shards"
    assert contents(first) == contents(second)
    assert first.fingerprint() == second.fingerprint()
    write_shard(shard, MEMBERS[:4])  # the same folder: its own time does not change
    os.utime(shard.parent, (time.time() - 60, time.time() - 60))
    assert len(index(tmp_path / "data", cache=tmp_path / "cache")) == 3


def test_duplicates_are_found_across_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("0_real/a.png", b"same")])
    write_shard(tmp_path / "b.tar", [("1_fake/b.png", b"same"), ("1_fake/c.png", b"else")])
    assert find_duplicates(index(tmp_path, "folder")) == [("a.tar/0_real/a.png", "b.tar/1_fake/b.png")]


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _overwritten(content: bytes) -> bytes:
    return content[:1536] + b"\xff" * 512 + content[2048:]  # the second header


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "ends early|unexpected end"),
        (_overwritten, "damaged at byte"),
        (lambda content: content * 2, "several were joined"),
        (lambda content: b"no tar" * 300, "not a tar"),
        (lambda content: b"", "not a tar"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: object, reason: str) -> None:
    members = [(f"{label}/{i}.png", bytes([i]) * 600) for i in range(9) for label in ("0_real", "1_fake")]
    good = write_shard(tmp_path / "good.tar", members)
    (tmp_path / "bad.tar").write_bytes(damage(good.read_bytes()))  # type: ignore[operator]
    found = index(tmp_path, "folder")
    assert len(found) == len(members)
    assert set(found.unreadable) == {"bad.tar"}
    assert re.search(reason, found.unreadable["bad.tar"])


def test_only_damaged_shards_say_so(tmp_path: Path) -> None:
    (tmp_path / "AIGI-Now").mkdir()
    (tmp_path / "AIGI-Now/x.tar").write_bytes(b"no tar" * 300)
    with pytest.raises(DataError, match=r"Unreadable: AIGI-Now/x\.tar: not a tar"):
        index(tmp_path)


def test_a_shard_cut_after_listing_is_no_image(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.tar", [("0_real/a.png", b"a" * 100), ("1_fake/a.png", b"b" * 100)])
    found = index(tmp_path, "folder")
    os.truncate(shard, int(found.offsets[1]) + 40)
    assert found.source(0).read_bytes() == b"a" * 100
    with pytest.raises(OSError, match=r"x\.tar ends 60 bytes before"):
        found.source(1).read_bytes()
