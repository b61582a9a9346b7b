"""Zip and Parquet read in place: what the usual libraries read of them, by name, and no silence, file or flood of others."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import re
import tarfile
import tracemalloc
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_trees import write_shard
from shard_files import structs, write_parquet, write_zip

from mirror_pl.sources import parquet
from mirror_pl.sources.folder import Folder
from mirror_pl.sources.shards import list_shard
from mirror_pl.sources.source import ImageSource

SUFFIXES = {".png", ".jpg"}
MEMBERS = [
    ("b/1_fake/b.jpg", b"fake b" * 99),
    ("b/1_fake/b.json", b"{}"),
    ("0_real/a.png", random.Random(0).randbytes(300_000)),
    ("b/1_fake/a.JPG", b""),
    ("caf\u00e9 \n.png", b"x"),
]


def contents(file: Path, folders: list[Folder] | None = None) -> dict[str, bytes]:
    found = {}
    for folder in list_shard(file, (), SUFFIXES) if folders is None else folders:
        for name, place, size in zip(folder.names, folder.offsets, folder.sizes, strict=True):
            found["/".join((*folder.parts, name))] = ImageSource(file, place, size).read_bytes()
    return found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_what_unpacking_gives(tmp_path: Path, method: int) -> None:
    file = write_zip(tmp_path / "x.zip", MEMBERS, method)
    with zipfile.ZipFile(file) as opened:
        expected = {name: opened.read(name) for name in opened.namelist() if not name.endswith(".json")}
    assert contents(file) == expected
    folders = list_shard(file, ("x.zip",), SUFFIXES)
    assert [folder.parts for folder in folders] == [("x.zip",), ("x.zip", "0_real"), ("x.zip", "b", "1_fake")]
    assert folders[2].names == ["a.JPG", "b.jpg"]
    assert folders[2].others == ["b.json"]
    assert {folder.shard for folder in folders} == {"x.zip"}


def test_a_zip_written_to_a_pipe_or_behind_other_bytes(tmp_path: Path) -> None:
    """Then a member's checksum is behind it, or all places are shifted."""

    class Pipe(BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError

        tell = seek

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in MEMBERS:
            opened.writestr(name, content)
    (tmp_path / "x.zip").write_bytes(pipe.getvalue())
    expected = {name: content for name, content in MEMBERS if not name.endswith(".json")}
    assert contents(tmp_path / "x.zip") == expected
    place = list_shard(tmp_path / "x.zip", (), SUFFIXES)[1].offsets[0]
    damaged = bytearray(pipe.getvalue())
    damaged[place + 30 + len("0_real/a.png") + 1000] ^= 1  # stored blocks: random bytes do not deflate
    (tmp_path / "y.zip").write_bytes(damaged)
    with pytest.raises(OSError, match=r"checksum|damaged"):
        contents(tmp_path / "y.zip")
    (tmp_path / "z.zip").write_bytes(b"#!/bin/sh\n" + pipe.getvalue())
    assert contents(tmp_path / "z.zip") == expected


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_written_twice_counts_once_and_none_leads_outside(tmp_path: Path, suffix: str) -> None:
    write = write_zip if suffix == ".zip" else write_shard
    names = ["../out.png", "a/../../out.png", "..\\out.png", "a.png", "/abs/a.png", "C:/a.png", "../no.txt", "a.png"]
    file = write(tmp_path / "in" / f"x{suffix}", [(name, bytes([i])) for i, name in enumerate(names)])
    folders = list_shard(file, (), SUFFIXES)
    assert contents(file) == {"a.png": b"\x07", "C:/a.png": b"\x05", "abs/a.png": b"\x04"}
    escaped = [r"\x2e\x2e/out.png", r"a/\x2e\x2e/\x2e\x2e/out.png"]
    assert {name: problem for folder in folders for name, problem in folder.problems.items()} == dict.fromkeys(
        escaped, "a name that leads out of the shard, by .."
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def raw_zip(file: Path, stream: bytes, size: int, method: int = zipfile.ZIP_DEFLATED, flags: int = 0) -> Path:
    """Write a zip of one good member and one that holds `stream` and says what it likes of itself."""
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("bad.png", stream)
        info = opened.infolist()[0]
        info.compress_type, info.file_size, info.flag_bits = method, size, flags
        opened.writestr("good.png", b"good")
    content = bytearray(file.read_bytes())
    content[6:8], content[8:10] = flags.to_bytes(2, "little"), method.to_bytes(2, "little")
    file.write_bytes(content)
    return file


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("method", "flags", "reason"),
    [
        (zipfile.ZIP_STORED, 0x1, "an encrypted member of the zip"),
        (zipfile.ZIP_DEFLATED, 0x41, "an encrypted member of the zip"),
        (zipfile.ZIP_BZIP2, 0, "a compression that is not read, bzip2; stored and deflated members are"),
        (zipfile.ZIP_LZMA, 0, "a compression that is not read, lzma; .*"),
        (93, 0, "a compression that is not read, zstd; .*"),
        (77, 0, "a compression that is not read, method 77; .*"),
    ],
)
def test_what_cannot_be_read_of_a_zip_is_known_by_its_listing(tmp_path: Path, method: int, flags: int, reason: str) -> None:
    file = raw_zip(tmp_path / "x.zip", b"secret", 6, method, flags)
    (folder,) = list_shard(file, (), SUFFIXES)
    assert folder.names == ["good.png"]
    assert list(folder.problems) == ["bad.png"]
    assert re.fullmatch(reason, folder.problems["bad.png"])
    assert contents(file) == {"good.png": b"good"}


def test_gigabytes_of_zeros_fill_no_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    stream = block * 512 + packer.flush()
    honest = raw_zip(tmp_path / "honest.zip", stream, 2**33)
    lying = raw_zip(tmp_path / "lying.zip", stream, 1000)
    assert honest.stat().st_size < 2**24
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="a member of 8,589,934,592 bytes, more than the 1,500,000,000"):
            contents(honest)
        with pytest.raises(OSError, match="more bytes than the directory says"):
            contents(lying)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    for stream, reason in {
        deflated(b"12345"): "ends 5 bytes before",
        b"\xff" * 9: "damaged in the zip",
        deflated(b"another 10"): "checksum",
    }.items():
        file = raw_zip(tmp_path / "x.zip", stream, 10)
        (folder,) = list_shard(file, (), SUFFIXES)
        bad, good = (ImageSource(file, place, size) for place, size in zip(folder.offsets, folder.sizes, strict=True))
        with pytest.raises(OSError, match=reason):
            bad.read_bytes()
        assert good.read_bytes() == b"good"
    with pytest.raises(OSError, match="no member at byte 7"):
        ImageSource(file, 7, 10).read_bytes()


@pytest.mark.parametrize("suffix", [".zip", ".parquet", ".tar"])
def test_a_shard_that_is_cut_or_none_is_an_error(tmp_path: Path, suffix: str) -> None:
    write = {".zip": write_zip, ".tar": write_shard}.get(suffix)
    file = tmp_path / f"x{suffix}"
    if write is None:
        write_parquet(file, {"image": [content for _, content in MEMBERS]})
    else:
        write(file, MEMBERS)
    for content in (file.read_bytes()[:-12000], file.read_bytes()[:2000], b"no shard" * 200, b""):
        file.write_bytes(content)
        with pytest.raises(OSError, match=r"\w"):
            list_shard(file, (), SUFFIXES)


PICTURES = [(f"{i:02}.png", i % 2, bytes([i]) * (i * 50 + 1)) for i in range(23)]


def rows_of(file: Path) -> list[ImageSource]:
    return [
        ImageSource(file, place, size)
        for folder in list_shard(file, (), SUFFIXES)
        for place, size in zip(folder.offsets, folder.sizes, strict=True)
    ]


@pytest.mark.parametrize("kept", [2**28, 3000, 0])
@pytest.mark.parametrize("kind", ["struct", "binary", "large", "null_group"])
def test_rows_in_any_order_are_what_pyarrow_reads(
    tmp_path: Path, kept: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "KEPT_BYTES", kept)
    column = {
        "struct": structs(PICTURES, paths=True),
        "binary": pa.array([content for _, _, content in PICTURES], pa.binary()),
        "large": pa.array([content for _, _, content in PICTURES], pa.large_binary()),
        "null_group": pa.array([None] * 4 + [content for _, _, content in PICTURES[4:]], pa.binary()),
    }[kind]
    file = write_parquet(tmp_path / "x.parquet", {"n": list(range(23)), "image": column, "label": [0] * 23}, rows=4)
    read = pq.read_table(file)["image"].to_pylist()
    expected = [value["bytes"] if isinstance(value, dict) else value for value in read]
    sources, rng = rows_of(file), random.Random(0)
    for order in (range(23), reversed(range(23)), rng.choices(range(23), k=150)):
        for row in order:
            if expected[row] is None:
                with pytest.raises(OSError, match=f"row {row} of x.parquet holds no image"):
                    sources[row].read_bytes()
            else:
                assert sources[row].read_bytes() == expected[row]
    assert parquet._reader._kept_bytes <= kept
    with pytest.raises(OSError, match="has 23 rows, and no row 23"):
        ImageSource(file, 23).read_bytes()


def test_a_file_that_changes_is_read_anew_and_so_is_it_in_other_processes(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", {"image": structs(PICTURES, paths=True)})
    source = rows_of(file)[9]
    assert source.read_bytes() == PICTURES[9][2]
    assert pickle.loads(pickle.dumps(source)) == source
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as processes:
            assert processes.map(ImageSource.read_bytes, rows_of(file)) == [content for _, _, content in PICTURES]
    write_parquet(file, {"image": structs(PICTURES[::-1], paths=True)})
    os.utime(file, ns=(1, 1))
    assert source.read_bytes() == PICTURES[13][2]


def test_rows_in_rising_order_are_read_once_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_parquet(tmp_path / "x.parquet", {"image": structs(PICTURES, paths=True)})
    begun = []
    read = pq.ParquetFile.iter_batches
    sources = rows_of(file)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **k: begun.append(k["row_groups"]) or read(*a, **k))
    for source in sources[::2]:
        source.read_bytes()
    assert begun == [[group] for group in range(6)]
    assert not [key for key in parquet._reader._kept if key[0] == str(file)]


def test_what_rows_are_called(tmp_path: Path) -> None:
    """By their path where it is fit to be a name, of that row alone; else by their number."""
    paths = [
        "a.png",
        None,
        "f/b.jpg",
        "../c.png",
        "/d.png",
        "twice.png",
        "twice.png",
        "C:\\e.png",
        "f//g.png",
        "09",
        "no_suffix",
    ]
    image = pa.array([{"bytes": b"x", "path": path} for path in paths])
    folders = list_shard(write_parquet(tmp_path / "x.parquet", {"image": image}), ("x.parquet",), SUFFIXES)
    names = ["a.png", "01", "03", "04", "05", "06", "07", "08", "09", "no_suffix"]
    assert [(folder.parts, folder.names) for folder in folders] == [
        (("x.parquet",), names),
        (("x.parquet", "f"), ["b.jpg"]),
    ]
    assert folders[0].offsets == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert not folders[0].labels


def test_labels_of_rows(tmp_path: Path) -> None:
    def labels(columns: dict[str, object], names: list[str] | None = None, column: str | None = None) -> list[str]:
        file = write_parquet(tmp_path / "x.parquet", {"image": [b"x"] * 3, **columns}, names)
        return list_shard(file, (), SUFFIXES, label=column)[0].labels

    assert labels({"label": [1, 0, 7]}, ["nature", "ai"]) == ["ai", "nature", "7"]
    assert labels({"label": [1, 0, None]}) == ["1", "0", "null"]
    assert labels({"Is_Fake": [True, False, True], "other": [1, 2, 3]}) == ["1", "0", "1"]
    assert labels({"class": ["real", "x" * 999, "Fake"]}) == ["real", "x" * 100, "Fake"]
    assert labels({"class": [1, 2, 3], "label": pa.array(["a", "b", "a"]).dictionary_encode()}) == ["a", "b", "a"]
    assert labels({"label": [1, 0, 1], "made_by": ["me", "it", "it"]}, column="made_by") == ["me", "it", "it"]
    assert labels({"n": [1, 2, 3]}) == []
    with pytest.raises(OSError, match="no column 'made' of labels; its columns are image, n"):
        labels({"n": [1, 2, 3]}, column="made")


def test_a_small_file_that_says_much_fills_no_memory(tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["p" * 300_000]))
    contents = pa.array([random.Random(row).randbytes(40) for row in range(3000)])
    image = pa.StructArray.from_arrays([contents, long], ["bytes", "path"])
    pq.write_table(pa.table({"image": image, "label": long}), tmp_path / "x.parquet", store_schema=False)
    pq.write_table(pa.table({"image": pa.nulls(10**6, pa.binary())}), tmp_path / "y.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 10**6
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    default = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        (folder,) = list_shard(tmp_path / "x.parquet", (), SUFFIXES)
        with pytest.raises(OSError, match=r"bytes that says it holds 1,000,000 pictures"):
            list_shard(tmp_path / "y.parquet", (), SUFFIXES)
    finally:
        pa.set_memory_pool(default)
    assert folder.names[:2] == ["0000", "0001"]
    assert set(folder.labels) == {"p" * 100}
    assert 0 < pool.max_memory() < 10**8


@pytest.mark.parametrize("columns", [{"image": ["a.png"], "n": [1]}, {"image": [{"path": "a"}], "n": [1]}, {}])
def test_a_table_without_images_names_its_columns(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    with pytest.raises(
        OSError, match="no column of images.*its columns are " + ("image.*, n .int64" if columns else "none")
    ):
        list_shard(write_parquet(tmp_path / "x.parquet", columns), (), SUFFIXES)


def test_a_tar_is_read_as_before(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "x.tar", MEMBERS)
    with tarfile.open(file) as opened:
        expected = {name: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]
    assert contents(file) == {name: content for name, content in expected.items() if not name.endswith(".json")}
