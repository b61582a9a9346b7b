"""A store: whatever was written whole comes back, whatever was not is as if it had never been."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirror_pl.errors import DataError, OutputError
from mirror_pl.scores import Status
from mirror_pl.scores.parts import _SCHEMA, PartialScores, join, read_parts
from mirror_pl.store import Store

KEY, OTHER = b"k" * 32, b"o" * 32


def scores(ids: list[int], reasons: dict[int, str] | None = None) -> PartialScores:
    values = np.array(ids, np.float32) / 7
    kinds = np.full(len(ids), Status.OK, np.int8)
    return PartialScores(np.array(ids, np.int64), kinds, values, 1 / (1 + np.exp(-values)), reasons or {})


def assert_equal(one: PartialScores, two: PartialScores) -> None:
    for name in ("ids", "statuses", "logits", "p_fake"):
        first, second = getattr(one, name), getattr(two, name)
        assert first.dtype == second.dtype
        assert first.tobytes() == second.tobytes(), name
    assert one.reasons == two.reasons


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "parts", KEY)
    assert store.names() == []
    assert len(read_parts(store)) == store.count() == 0
    odd = scores([5], {5: "a \n name with \udcff"})
    odd.logits[:] = np.nan
    scores([1, 2]).keep(store, 0)
    odd.keep(store, 1)
    found = read_parts(store)
    expected = join([scores([1, 2]), odd])
    expected.reasons[5] = "a \n name with \\xff"
    assert_equal(found, expected)
    assert store.count() == 3
    scores([2, 9]).keep(store, 2)
    assert sorted(read_parts(store).ids) == [1, 2, 5, 9], "each image once"


def test_a_part_is_a_parquet_file_as_others_read_it(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    store.add("first", pa.table({"x": [1, 2]}))
    assert pq.read_table(tmp_path / "first.parquet")["x"].to_pylist() == [1, 2]
    assert store.schema("first").names == ["x"]
    assert store.read("first", ["x"])["x"].to_pylist() == [1, 2]


def test_parts_of_another_run_are_refused(tmp_path: Path) -> None:
    scores([1]).keep(Store(tmp_path, OTHER), 0)
    with pytest.raises(DataError, match="belongs to another run"):
        read_parts(Store(tmp_path, KEY))
    assert Store(tmp_path, None).count() == 1


def test_what_a_killed_process_leaves_is_no_part(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    scores([1, 2]).keep(store, 0)
    (tmp_path / ".0001-abc.parquet.0123.tmp").write_bytes(b"PAR1")
    assert read_parts(store).ids.tolist() == [1, 2]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    """Any byte: the page's checksum, the footer or what comes out of it tells, or nothing was changed that counts."""
    store = Store(tmp_path, KEY)
    whole = scores(list(range(50)), {3: "why"})
    whole.keep(store, 0)
    (path,) = tmp_path.glob("*.parquet")
    content = path.read_bytes()
    named = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            found = read_parts(store)
        except DataError as error:
            named += path.name in str(error)
        else:
            assert_equal(found, whole)
    assert named > len(content) // 7 * 0.5
    for size in range(0, len(content), 11):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=f"{path.name} holds no scores .*delete that file"):
            read_parts(store)


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """Files cannot grow beyond `limit` bytes: a write takes what fits, and the next one fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_loses_only_what_was_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    scores([1, 2]).keep(store, 0)
    size = next(tmp_path.glob("*.parquet")).stat().st_size
    with (
        small_disk(size),
        pytest.raises(OutputError, match=r"0000-.*\.parquet cannot be written: File too large; .*resume=true"),
    ):
        scores(np.random.default_rng(0).integers(0, 10**9, 5000).tolist()).keep(store, 0)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".parquet"], "nothing half is left"
    assert read_parts(store).ids.tolist() == [1, 2]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        scores([1]).keep(Store(tmp_path / "file", KEY), 0)
    assert Store(tmp_path / "file", KEY).names() == []


def junk() -> Iterator[pa.Table]:
    """Tables that are no scores."""
    yield pa.table({"x": [1]})
    columns = {"id": [1], "status": [0], "logit": [0.5], "p_fake": [0.5], "reason": [""]}
    yield pa.table(columns)
    loose = pa.schema([field.with_nullable(True) for field in _SCHEMA])
    for name, value in (("id", -1), ("status", 9)):
        yield pa.table({**columns, name: [value]}, schema=_SCHEMA)
    for name in columns:
        yield pa.table({**columns, name: [None]}, schema=loose)


@pytest.mark.parametrize("table", list(junk()), ids=range(9))
def test_junk(tmp_path: Path, table: pa.Table) -> None:
    store = Store(tmp_path, KEY)
    store.add("0000-x", table)
    with pytest.raises(DataError, match=r"0000-x\.parquet holds no scores"):
        read_parts(store)


def test_a_few_bytes_that_are_gigabytes_are_refused(tmp_path: Path) -> None:
    rows = pa.table({"x": pa.array(np.zeros(2**27 + 1))})
    store = Store(tmp_path, KEY)
    pq.write_table(rows, tmp_path / "x.parquet", use_dictionary=False, compression="zstd", row_group_size=2**24)
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    with pytest.raises(DataError, match="more than 1,073,741,824 bytes"):
        store.read("x")
