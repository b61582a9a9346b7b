"""The cache of crops: what it returns is what was stored, whatever becomes of its files; and it stays within its limit."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import PIL
import pytest

from mirror_pl.images import CropCache, PreprocessSpec, crop_segments
from mirror_pl.images.crop_cache import AFTER_THE_CROP
from mirror_pl.images.crop_segments import make_room

SPEC = PreprocessSpec(crop_px=32)
CROP_BYTES = 32 * 32 * 3
GB = 10**9

WRITER = """
import hashlib, sys
from pathlib import Path
import numpy as np
from mirror_pl.images import CropCache, PreprocessSpec
cache = CropCache(Path(sys.argv[1]), PreprocessSpec(crop_px=32), 10**9)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    key = hashlib.blake2b(str(number).encode(), digest_size=16).digest()
    cache.store(key, np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8))
    print(number, flush=True)
"""


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def crop_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)


def store(cache: CropCache, numbers: Iterable[int]) -> None:
    for number in numbers:
        cache.store(key_of(number), crop_of(number))


def filled(folder: Path, count: int) -> CropCache:
    store(CropCache(folder, SPEC, GB), range(count))
    return CropCache(folder, SPEC, GB)


def found(cache: CropCache, numbers: Iterable[int]) -> list[int]:
    """Numbers that are found; each must be the crop that was stored under it."""
    hits = []
    for number in numbers:
        crop = cache.find(key_of(number))
        if crop is not None:
            np.testing.assert_array_equal(crop, crop_of(number))
            hits.append(number)
    return hits


def used_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    cache = filled(tmp_path, 50)
    assert found(cache, range(60)) == list(range(50))
    crop = cache.find(key_of(7))
    assert crop is not None
    crop[:] = 0  # a copy of the caller's own
    assert found(cache, range(50)) == list(range(50))


def test_only_crops_of_the_recipe_are_taken(tmp_path: Path) -> None:
    cache = CropCache(tmp_path, SPEC, GB)
    for wrong in (np.zeros((31, 32, 3), np.uint8), np.zeros((32, 32, 3), np.float32)):
        with pytest.raises(ValueError, match="a crop of this recipe"):
            cache.store(key_of(0), wrong)


def test_each_recipe_has_its_own_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)
    unsized = replace(SPEC, max_short_side_px=None)
    store(CropCache(tmp_path, unsized, GB), [0])
    others = {
        "decoder": "opencv", "max_short_side_px": 40, "short_side_px": 40, "squash_px": 40, "resample": "bilinear",
        "crop_px": 33, "crop_from": "floor", "align_suffixes": (".png",), "align_quality": 95, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
    }  # fmt: skip
    assert others.keys() == {field.name for field in fields(PreprocessSpec)}
    for name, value in others.items():
        hit = CropCache(tmp_path, replace(unsized, **{name: value}), GB).find(key_of(0))
        assert (hit is not None) == (name in AFTER_THE_CROP), name
    monkeypatch.setattr(PIL, "__version__", "0.0")
    assert CropCache(tmp_path, SPEC, GB).find(key_of(0)) is None


def test_segments_are_full_and_few(tmp_path: Path) -> None:
    limit = 512 * 10 * (CROP_BYTES + 20)  # ten crops a segment
    cache = CropCache(tmp_path, SPEC, limit)
    store(cache, range(45))
    sizes = sorted(path.stat().st_size for path in tmp_path.rglob("*.crops"))
    assert sizes == [5 * CROP_BYTES, *[10 * CROP_BYTES] * 4]
    assert found(CropCache(tmp_path, SPEC, limit), range(45)) == list(range(45))


def test_more_segments_than_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crop_segments, "MAPPED_SEGMENTS", 2)
    for number in range(5):
        CropCache(tmp_path, SPEC, GB).store(key_of(number), crop_of(number))
    cache = CropCache(tmp_path, SPEC, GB)
    for _ in range(2):
        assert found(cache, range(5)) == list(range(5))
        assert len(cache._segments._maps) == 2


@pytest.mark.parametrize("suffix", ["*.keys", "*.crops"])
def test_damage_is_a_miss(tmp_path: Path, suffix: str) -> None:
    filled(tmp_path, 4)
    (file,) = tmp_path.rglob(suffix)
    whole, rng = file.read_bytes(), random.Random(0)
    for _ in range(60):
        place, end = rng.randrange(len(whole)), rng.randrange(len(whole))
        for damaged in (whole[:place], whole[:place] + b"\x5a" + whole[place + 1 :], whole[place:], whole[:end] + bytes(99)):
            file.write_bytes(damaged)
            found(CropCache(tmp_path, SPEC, GB), range(4))  # nothing wrong
    file.write_bytes(whole[: len(whole) // 2])
    assert found(CropCache(tmp_path, SPEC, GB), range(4)) == [0, 1]
    for number in (2, 3):  # stored anew beside the damaged ones
        CropCache(tmp_path, SPEC, GB).store(key_of(number), crop_of(number))
    file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    assert found(CropCache(tmp_path, SPEC, GB), range(4)) == [0, 1, 2, 3]
    file.unlink()
    assert found(CropCache(tmp_path, SPEC, GB), range(4)) == [2, 3]


def test_a_folder_emptied_meanwhile(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache", 3)
    assert found(cache, range(1)) == [0]
    shutil.rmtree(tmp_path / "cache")
    assert found(cache, range(3)) == [0, 1, 2], "what is mapped stays"
    with pytest.warns(UserWarning, match="cannot be written"):
        cache.store(key_of(3), crop_of(3))
    assert found(CropCache(tmp_path / "cache", SPEC, GB), range(3)) == []


def start_writer(folder: Path, first: int, end: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(folder), str(first), str(end)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_processes_write_at_once(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, first, first + 300) for first in (0, 150)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert found(CropCache(tmp_path, SPEC, GB), range(450)) == list(range(450))


def assert_kills_lose_nothing(folder: Path, times: int) -> None:
    """Kill a writer again and again: what it had said to be stored is found, and what is found is right."""
    first = 0
    for attempt in range(times):
        writer = start_writer(folder, first, 10**6)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(random.Random(attempt).uniform(0, 0.05))
        writer.kill()
        said = [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.wait()
        last = (said or [first])[-1]
        assert set(range(first, last + 1)) <= set(found(CropCache(folder, SPEC, GB), range(first, last + 2)))
        first = last + 1
    assert found(CropCache(folder, SPEC, GB), range(first)) == list(range(first))


def test_a_killed_writer_leaves_a_usable_cache(tmp_path: Path) -> None:
    assert_kills_lose_nothing(tmp_path, 4)


@pytest.mark.slow
def test_many_killed_writers_leave_a_usable_cache(tmp_path: Path) -> None:
    assert_kills_lose_nothing(tmp_path, 100)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_write_segments_of_their_own(tmp_path: Path, method: str) -> None:
    cache = CropCache(tmp_path, SPEC, GB)
    cache.store(key_of(0), crop_of(0))
    worker = multiprocessing.get_context(method).Process(target=cache.store, args=(key_of(1), crop_of(1)))
    worker.start()  # inherits the cache, or gets it pickled
    worker.join()
    assert worker.exitcode == 0
    cache.store(key_of(2), crop_of(2))
    assert sorted(path.stat().st_size for path in tmp_path.rglob("*.crops")) == [CROP_BYTES, 2 * CROP_BYTES]
    cache = CropCache(tmp_path, SPEC, GB)
    assert found(cache, range(3)) == [0, 1, 2]
    assert found(pickle.loads(pickle.dumps(cache)), range(3)) == [0, 1, 2]


def test_the_limit_is_kept_and_the_long_unused_makes_way(tmp_path: Path) -> None:
    limit = 10 * (CROP_BYTES + 20)
    (tmp_path / "mine.crops").write_bytes(bytes(99))
    (tmp_path / "crops-of-mine").mkdir()
    (tmp_path / "crops-of-mine" / "notes.txt").write_bytes(bytes(99))
    cache = CropCache(tmp_path, SPEC, limit)
    with pytest.warns(UserWarning, match="is full.*raise cache_limit_gb") as caught:
        store(cache, range(20))
    assert len(caught) == 1
    assert found(CropCache(tmp_path, SPEC, limit), range(20)) == list(range(10))
    assert used_bytes(tmp_path) == limit + 2 * 99

    two_days_ago = time.time() - 2 * 24 * 3600
    for path in tmp_path.rglob("*.crops"):
        os.utime(path, (two_days_ago, two_days_ago))
    cache = CropCache(tmp_path, SPEC, limit)
    assert found(cache, range(4)) == [0, 1, 2, 3]  # used again
    other = CropCache(tmp_path, replace(SPEC, align_quality=50), limit)  # another recipe, the same limit
    with pytest.warns(UserWarning, match="is full"):
        store(other, range(20, 40))
    assert found(CropCache(tmp_path, SPEC, limit), range(20)) == [0, 1, 2, 3]
    assert found(CropCache(tmp_path, replace(SPEC, align_quality=50), limit), range(40)) == list(range(20, 26))
    assert used_bytes(tmp_path) == limit + 2 * 99
    assert (tmp_path / "mine.crops").exists()


def test_segments_that_may_still_grow_count_as_full(tmp_path: Path) -> None:
    (tmp_path / "crops-0").mkdir()
    for name in "abc":
        (tmp_path / "crops-0" / f"{name}.crops").write_bytes(bytes(100))
    assert make_room(tmp_path, limit_bytes=3000, segment_bytes=1000)
    assert not make_room(tmp_path, limit_bytes=2999, segment_bytes=1000)
    for path in tmp_path.rglob("*.crops"):
        os.utime(path, (time.time(), time.time() - 3600))  # used just now, written to an hour ago
    assert make_room(tmp_path, limit_bytes=300, segment_bytes=1000)
    assert not make_room(tmp_path, limit_bytes=299, segment_bytes=1000)
    assert used_bytes(tmp_path) == 300


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(crop_segments.shutil, "disk_usage", lambda folder: usage(10**8))
    with pytest.warns(UserWarning, match="or its disk nearly is") as caught:
        filled(tmp_path, 3)
    assert len(caught) == 1
    assert used_bytes(tmp_path) == 0


@pytest.mark.parametrize("fails_at", range(4, 8))
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    filled(tmp_path, 1)
    writes: list[int] = []
    write = crop_segments._write

    def failing_write(file: crop_segments.FileIO, content: bytes) -> None:
        writes.append(len(content))
        if len(writes) >= fails_at:
            write(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    monkeypatch.setattr(crop_segments, "_write", failing_write)
    with pytest.warns(UserWarning, match="No space left on device; the run goes on") as caught:
        cache = filled(tmp_path, 9)
    assert len(caught) == 1
    assert found(cache, range(9)) == [0]
    assert used_bytes(tmp_path) == CROP_BYTES + 20


def test_a_folder_that_cannot_be_written(unprivileged_folder: Path) -> None:
    (unprivileged_folder / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written: .*the run goes on") as caught:
        cache = filled(unprivileged_folder / "file", 1)
    assert len(caught) == 2, "one of each of the two caches"
    assert cache.find(key_of(0)) is None

    folder = unprivileged_folder / "cache"
    cache = filled(folder, 2)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = CropCache(folder, SPEC, GB)
        assert found(cache, range(2)) == [0, 1], "what others have stored may be read"
    with pytest.warns(UserWarning, match="cannot be written: Permission denied") as caught:
        store(cache, [2, 3])
    assert len(caught) == 1
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)


def test_forked_workers_warn_once_together(tmp_path: Path) -> None:
    cache = CropCache(tmp_path, SPEC, 1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(cache.store, (key_of(0), crop_of(0)))  # a bound method: the pool pickles the cache
    with pytest.warns(UserWarning, match="is full"):
        cache.store(key_of(0), crop_of(0))

    cache = CropCache(tmp_path, SPEC, 1)
    worker = multiprocessing.get_context("fork").Process(target=cache.store, args=(key_of(0), crop_of(0)))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store(key_of(0), crop_of(0))
