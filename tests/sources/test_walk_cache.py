"""Kept listings: equal to a fresh one, and never used once a folder has changed."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from mirror_pl.sources import walk_cache
from mirror_pl.sources.walk import Walk, walk
from mirror_pl.sources.walk_cache import cached_walk

SUFFIXES = {".png"}
SKIP = {"train"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in (
        "a/1.png",
        "a/2.PNG",
        "a/deep/er/3.png",
        "b/x.txt",
        "train/4.png",
        os.fsdecode(b"c/\xff.png"),
        "c/new\nline.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    (root / "empty").mkdir()
    age(root)
    return root


def age(root: Path) -> None:
    """Make all folders look as if they had not been touched for a minute."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 60, time.time() - 60))


def look(tree: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> tuple[Walk, bool]:
    """Return a cached walk, and whether it had to be made anew."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(walk_cache, "walk", lambda *args: calls.append(args) or walk(*args))
        return cached_walk(tree, SUFFIXES, SKIP, cache), bool(calls)


def test_a_kept_listing_is_equal(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, made = look(tree, monkeypatch, tmp_path / "cache")
    assert made
    second, made = look(tree, monkeypatch, tmp_path / "cache")
    assert not made
    assert second == first == walk(tree, SUFFIXES, SKIP)
    assert sum(len(folder.names) for folder in second.folders) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a/deep/er/new.png").touch(),
        lambda root: (root / "a/1.png").unlink(),
        lambda root: (root / "a/1.png").rename(root / "a/9.png"),
        lambda root: (root / "empty/new").mkdir(),
        lambda root: (root / "b").rename(root / "bb"),
    ],
)
def test_a_changed_folder_is_noticed(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: object) -> None:
    look(tree, monkeypatch, tmp_path / "cache")
    change(tree)  # type: ignore[operator]
    found, made = look(tree, monkeypatch, tmp_path / "cache")
    assert made
    assert found == walk(tree, SUFFIXES, SKIP)


def test_a_folder_that_may_still_be_changing_is_not_kept(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "a/just_now.png").touch()
    for _ in range(2):
        assert look(tree, monkeypatch, tmp_path / "cache")[1]


def test_other_suffixes_or_skips_are_another_listing(tree: Path, tmp_path: Path) -> None:
    cached_walk(tree, SUFFIXES, SKIP, tmp_path / "cache")
    assert cached_walk(tree, {".txt"}, SKIP, tmp_path / "cache") == walk(tree, {".txt"}, SKIP)
    assert cached_walk(tree, SUFFIXES, frozenset(), tmp_path / "cache") == walk(tree, SUFFIXES)


def test_damage_is_no_error(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_walk(tree, SUFFIXES, SKIP, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:-30]):
        file.write_bytes(damaged)
        found, made = look(tree, monkeypatch, tmp_path / "cache")
        assert made
        assert found == walk(tree, SUFFIXES, SKIP)
    (tmp_path / "file").touch()
    assert cached_walk(tree, SUFFIXES, SKIP, tmp_path / "file") == walk(tree, SUFFIXES, SKIP)


def test_flipped_bytes_are_damage_too(tree: Path, tmp_path: Path) -> None:
    """Whichever byte it is: what a kept listing says is true, or it is made anew."""
    fresh = cached_walk(tree, SUFFIXES, SKIP, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        assert cached_walk(tree, SUFFIXES, SKIP, tmp_path / "cache") == fresh


def test_a_compressed_listing_is_damage_too(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_walk(tree, SUFFIXES, SKIP, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    with np.load(file) as archive:
        kept = dict(archive)
    np.savez_compressed(file, **kept)
    assert look(tree, monkeypatch, tmp_path / "cache")[1]


def test_a_tree_deeper_than_pythons_stack(tmp_path: Path) -> None:
    folders = [Path(tmp_path, *["d"] * depth) for depth in range(1, 1501)]
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "a.png").touch()
    try:
        (found,) = walk(tmp_path, {".png"}).folders
    finally:  # pytest would remove it by recursion
        (folders[-1] / "a.png").unlink()
        for folder in reversed(folders):
            folder.rmdir()
    assert len(found.parts) == len(folders)
