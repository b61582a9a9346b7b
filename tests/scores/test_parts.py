"""Scores in parts: whatever was written whole comes back, whatever was cut short is as if it had not been written."""

from __future__ import annotations

import resource
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_pl.errors import DataError, OutputError
from mirror_pl.scores import Status, parts
from mirror_pl.scores.parts import PartialScores, PartWriter, count_scored, join, read_parts

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
    first, second = PartWriter(tmp_path / "parts", KEY, 0), PartWriter(tmp_path / "parts", KEY, 1)
    assert len(read_parts(tmp_path / "parts", KEY)) == 0
    odd = scores([5], {5: "a \n name with \udcff"})
    odd.logits[:] = np.nan
    first.append(scores([1, 2]))
    second.append(odd)
    first.append(scores([3]))
    expected = join([scores([1, 2]), scores([3]), odd])
    expected.reasons[5] = "a \n name with \\xff"
    assert_equal(read_parts(tmp_path / "parts", KEY), expected)
    assert count_scored(tmp_path / "parts") == 4
    third = PartWriter(tmp_path / "parts", KEY, 0)
    third.append(scores([2, 9]))
    found = read_parts(tmp_path / "parts", KEY)
    assert sorted(found.ids) == [1, 2, 3, 5, 9], "each image once"


def test_parts_of_another_run_are_refused(tmp_path: Path) -> None:
    PartWriter(tmp_path, OTHER, 0).append(scores([1]))
    with pytest.raises(DataError, match="belongs to another run"):
        read_parts(tmp_path, KEY)
    damaged = tmp_path / "0003-x.part"
    (next(tmp_path.glob("*.part"))).rename(damaged)
    damaged.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="belongs to another run"):
        read_parts(tmp_path, KEY)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.floats(0, 1), st.booleans())
def test_a_file_that_is_cut_or_damaged_anywhere_keeps_what_is_before(sizes: list[int], where: float, damaged: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        writer = PartWriter(Path(name), KEY, 0)
        ends, ids = [], 0
        for size in sizes:
            writer.append(scores(list(range(ids, ids + size))))
            ids += size
            ends.append((writer.path.stat().st_size, ids))
        content = bytearray(writer.path.read_bytes())
        place = min(int(where * len(content)), len(content) - 1)
        if damaged and place >= 48:  # what is before says whose it is
            content[place] ^= 0x55
        else:
            del content[place:]
        writer.path.write_bytes(content)
        kept = max((n for end, n in ends if end <= place), default=0)
        assert read_parts(Path(name), KEY).ids.tolist() == list(range(kept))


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
    writer = PartWriter(tmp_path, KEY, 0)
    writer.append(scores([1, 2]))
    with (
        small_disk(writer.path.stat().st_size + 100),
        pytest.raises(OutputError, match=r"0000-.*\.part cannot be written: .*resume=true"),
    ):
        writer.append(scores(list(range(3, 200))))
    assert writer.path.stat().st_size > 100
    assert read_parts(tmp_path, KEY).ids.tolist() == [1, 2]


def test_an_interrupted_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FileIO.write

    def a_little(self: FileIO, content: memoryview) -> int:
        return write(self, content[:7])

    class Slow(FileIO):
        write = a_little  # type: ignore[assignment]

    monkeypatch.setattr("mirror_pl.scores.parts.FileIO", Slow)
    PartWriter(tmp_path, KEY, 0).append(scores([4, 2, 8]))
    assert read_parts(tmp_path, KEY).ids.tolist() == [4, 2, 8]


def test_nothing_is_written_where_nothing_is_scored(tmp_path: Path) -> None:
    PartWriter(tmp_path / "parts", KEY, 0).close()
    assert not (tmp_path / "parts").exists()
    with pytest.raises(OutputError, match="cannot be written"):
        (tmp_path / "file").touch()
        PartWriter(tmp_path / "file", KEY, 0).append(scores([1]))


def junk() -> Iterator[bytes]:
    """Payloads that are no scores."""
    whole = parts._encoded(scores([1, 2]))
    yield b""
    yield b"junk"
    yield whole[:-40]
    yield whole[:200] + bytes(40) + whole[240:]
    yield parts._encoded(scores([-1]))
    strange = scores([1])
    strange.statuses[:] = 9
    yield parts._encoded(strange)
    for names in (parts._SCHEMA.names[:4], parts._SCHEMA.names):
        for value in (None, 1.5):
            sink = pa.BufferOutputStream()
            batch = pa.record_batch([pa.array([value])] * len(names), names)
            if len(names) == 5 and value is None:
                fields = parts._SCHEMA
                batch = pa.RecordBatch.from_arrays([pa.array([None], field.type) for field in fields], schema=fields)
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            yield sink.getvalue().to_pybytes()


@pytest.mark.parametrize("payload", list(junk()), ids=range(10))
def test_junk_with_a_true_checksum(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "0000-x.part"
    path.write_bytes(parts.MAGIC + KEY + parts._FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
    for read in (lambda: read_parts(tmp_path, KEY), lambda: count_scored(tmp_path)):
        with pytest.raises(DataError, match=r"0000-x\.part holds no scores"):
            read()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_scores_are_refused(tmp_path: Path, codec: str) -> None:
    """A few kilobytes of them could be gigabytes."""
    sink, rows = pa.BufferOutputStream(), 10**5
    columns = [pa.array([""] * rows if field.type == pa.string() else np.zeros(rows), field.type) for field in parts._SCHEMA]
    with pa.ipc.new_stream(sink, parts._SCHEMA, options=pa.ipc.IpcWriteOptions(compression=codec)) as stream:
        stream.write_batch(pa.record_batch(columns, schema=parts._SCHEMA))
    payload = sink.getvalue().to_pybytes()
    path = tmp_path / "0000-x.part"
    path.write_bytes(parts.MAGIC + KEY + parts._FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
    with pytest.raises(DataError, match="it is compressed"):
        read_parts(tmp_path, KEY)
