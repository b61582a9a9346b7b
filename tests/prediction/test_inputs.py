"""What inputs stand for: each kind, in its order, with whatever names."""

from __future__ import annotations

import glob
import io
import os
import random
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import structs, write_parquet, write_zip

from mirror_pl.errors import ConfigError
from mirror_pl.prediction.inputs import Item, check_inputs, count_items, expand
from mirror_pl.sources.tree import folders_below
from mirror_pl.texts import printable


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))


def paths(*inputs: str, stdin: bytes = b"") -> list[str]:
    return [item.path for item in expand(inputs, stdin=io.BytesIO(stdin))]


def test_a_file_is_itself_whatever_it_is() -> None:
    touch("a.png", "b.JPG", "c", "d.pdf")
    assert list(expand(["d.pdf", "b.JPG", "./c", "a.png", "a.png"])) == [
        Item.of_file(name) for name in ("d.pdf", "b.JPG", "./c", "a.png", "a.png")
    ]
    assert [item.suffix for item in expand(["b.JPG", "c"])] == [".jpg", ""]


def test_a_folder_is_walked_in_a_fixed_order() -> None:
    names = ["f/b.png", "f/a.jpg", "f/z/1.webp", "f/c/2.bmp", "f/c/x/3.tiff", "f/c/a.txt", "f/n.tar", "f/no", "f/z/._h.gif"]
    touch(*names)
    passed_over: Counter[str] = Counter()
    found = [item.path for item in expand(["f"], passed_over=passed_over)]
    assert found == ["f/a.jpg", "f/b.png", "f/c/2.bmp", "f/c/x/3.tiff", "f/z/._h.gif", "f/z/1.webp"]
    assert passed_over == {".txt": 1, ".tar": 1, "": 1}
    assert paths("f/") == found
    os.chdir("f")
    assert paths(".") == [f"./{name[2:]}" for name in found]


def test_links_are_followed_but_not_in_circles() -> None:
    touch("f/a.png", "other/b.png")
    Path("f/up").symlink_to(Path.cwd() / "f")
    Path("f/there").symlink_to(Path.cwd() / "other")
    Path("f/self.png").symlink_to("self.png")
    Path("f/gone.png").symlink_to("nowhere.png")
    assert paths("f") == ["f/a.png", "f/gone.png", "f/self.png", "f/there/b.png"]
    assert paths("f/**") == ["f/a.png", "f/gone.png", "f/self.png", "f/there/b.png"]


def test_what_cannot_be_listed_is_a_row(unprivileged_folder: Path) -> None:
    (unprivileged_folder / "f/shut").mkdir(parents=True)
    (unprivileged_folder / "f/a.png").touch()
    (unprivileged_folder / "f/shut").chmod(0)
    try:
        items = list(expand([str(unprivileged_folder / "f")]))
    finally:
        (unprivileged_folder / "f/shut").chmod(0o700)
    assert [Path(item.path).name for item in items] == ["a.png", "shut"]
    assert items[1].problem == "PermissionError: Permission denied"


ODD = [
    "a b.png",
    "a=b.png",
    "line\nbreak.png",
    "tab\t.png",
    "图片.png",
    "*.png",
    "[x].png",
    "'\".png",
    "\udcff\udcfe.png",
    "-.png",
]


def test_odd_names_in_every_kind() -> None:
    touch(*(f"f/{name}" for name in ODD))
    named = [f"f/{name}" for name in ODD]
    assert paths(*named) == named, "a name that exists is no glob"
    assert paths("f") == sorted(named)
    assert sorted(paths("f/*")) == sorted(named)
    nul = b"\0".join(map(os.fsencode, named))
    assert paths("-", stdin=nul) == named
    assert paths("-", stdin=nul + b"\0") == named
    Path("list.txt").write_bytes(nul)
    assert paths("list.txt") == named
    lines = [name for name in named if "\n" not in name]
    assert paths("-", stdin=b"\n".join(map(os.fsencode, lines))) == lines
    for item in expand(["f"]):
        assert item.source.read_bytes() == item.path.encode(errors="surrogateescape"), "each is the file it says"
        printable(item.path).encode()


def test_a_list_is_a_picture_a_line() -> None:
    Path("l.LST").write_bytes(b"\xef\xbb\xbfa.png\r\n\n sub/b.jpg \nmissing.png\nf\n#.png")
    assert paths("l.LST") == ["a.png", " sub/b.jpg ", "missing.png", "f", "#.png"]
    long = b"".join(b"folder/%09d.png\n" % number for number in range(20000))
    assert paths("-", stdin=long) == long.decode().split()
    assert paths("-") == []


def test_a_list_is_read_as_it_comes() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"one.png\ntwo.png\n"

    stream = expand(["-"], stdin=Endless())
    assert [next(stream).path for _ in range(1000)] == ["one.png", "two.png"] * 500


def test_shards() -> None:
    with tarfile.open("s.tar", "w") as shard:
        for name in ("b/2.png", "a/1.jpg", "a/1.cls", "0.webp"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            shard.addfile(info, io.BytesIO(name.encode()))
    passed_over: Counter[str] = Counter()
    items = list(expand(["s.tar"], passed_over=passed_over))
    assert [item.path for item in items] == ["s.tar/0.webp", "s.tar/a/1.jpg", "s.tar/b/2.png"]
    assert [item.source.read_bytes() for item in items] == [b"0.webp", b"a/1.jpg", b"b/2.png"]
    assert passed_over == {".cls": 1}
    Path("broken.tar").write_bytes(Path("s.tar").read_bytes()[:1000])
    Path("folder.tar").mkdir()
    touch("folder.tar/x.png")
    (broken, inner) = expand(["broken.tar", "folder.tar"])
    assert (broken.path, inner.path) == ("broken.tar", "folder.tar/x.png")
    assert broken.problem.startswith("OSError: ")
    assert paths("*s.tar") == [item.path for item in items]


def test_zip_and_parquet_are_read_where_they_are_named() -> None:
    write_zip(Path("s.zip"), [("b/2.png", b"2"), ("b/2.cls", b""), ("1.HEIC", b"1"), ("../3.png", b"3"), ("4", b"4")])
    rows = [("n.png", 0, b"n"), ("gif.gif", 0, b"g"), ("no.suffix", 0, b"s"), ("bare", 0, b"b")]
    write_parquet(Path("p.parquet"), {"image": structs(rows, paths=True)})
    passed_over: Counter[str] = Counter()
    items = list(expand(["?.zip", "p.parquet"], passed_over=passed_over))
    assert [(item.path, item.suffix) for item in items] == [
        ("s.zip/1.HEIC", ".heic"),
        (r"s.zip/\x2e\x2e/3.png", ".png"),
        ("s.zip/b/2.png", ".png"),
        ("p.parquet/n.png", ".png"),
        ("p.parquet/gif.gif", ".gif"),
        ("p.parquet/no.suffix", ""),
        ("p.parquet/bare", ""),
    ]
    assert items[1].problem == "OSError: a name that leads out of the shard, by .."
    read = [item.source.read_bytes() for item in items if not item.problem]
    assert read == [b"1", b"2", b"n", b"g", b"s", b"b"]
    assert passed_over == {".cls": 1, "": 1}
    assert paths(".") == []
    Path("p.parquet").write_bytes(b"no table")
    (broken,) = expand(["p.parquet"])
    assert broken.problem.startswith("OSError: not a Parquet file that can be read: ")


def standard(pattern: str) -> set[str]:
    """The files that the standard library finds."""
    return {path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}  # noqa: PTH207


NAMES = ["a.png", "b.jpg", ".h.png", "x/a.png", "x/b.jpg", "x/y/a.png", "x/y/z/c.png", ".d/a.png", "x/.d/a.png", "w/x/a.png"]


@pytest.mark.parametrize(
    "pattern",
    ["*.png", "**/*.png", "x/**/*.png", "**/x/**/*.png", "x/*/a.png", "./*.png", "[ab].*", "?.png", ".*/*", "**/.d/*",
     "x/**", "**", "**/y/**"],
)  # fmt: skip
def test_globs_match_what_the_standard_library_says(pattern: str) -> None:
    touch(*NAMES)
    for named in (pattern, f"{Path.cwd()}/{pattern}"):
        assert sorted(paths(named)) == sorted(standard(named))


def test_a_folder_that_a_glob_matches_is_walked() -> None:
    touch("f/a/1.png", "f/b/2.png", "f/b/c/3.png", "f/d.txt.png")
    assert paths("f/*") == ["f/a/1.png", "f/b/2.png", "f/b/c/3.png", "f/d.txt.png"]
    assert paths("f/**") == ["f/d.txt.png", "f/a/1.png", "f/b/2.png", "f/b/c/3.png"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "*", "**", "?", "[a-c]", "a*", ".x"]), min_size=1, max_size=4), st.integers(0, 9))
def test_globs_at_random(tmp_path_factory: pytest.TempPathFactory, parts: list[str], seed: int) -> None:
    rng = random.Random(seed)
    root = tmp_path_factory.mktemp("globs")
    for _ in range(12):
        path = root.joinpath(*(rng.choice(["a", "b", "ab", ".x"]) for _ in range(rng.randint(0, 3))))
        path.mkdir(parents=True, exist_ok=True)
        (path / rng.choice(["a.png", "b.png", ".x.png", "c.png"])).touch()
    pattern = f"{root}/{'/'.join(parts)}.png"
    found = paths(pattern) if "*" in pattern or "?" in pattern or "[" in pattern else []
    if found:
        assert len(found) == len(set(found))
        assert set(found) == standard(pattern.replace("**.png", "*.png"))


def test_what_is_not_there_is_said_before_anything() -> None:
    touch("f/a.png", "[1].png")
    check_inputs(["f", "f/a.png", "-", "f/*.png", "[1].png", "f/*"])
    for inputs, message in (
        (["f/a.png", "nowhere.png"], "nowhere.png does not exist in "),
        (["/nowhere"], "/nowhere does not exist$"),
        (["f/*.jpg"], r"nothing matches f/\*.jpg"),
        ([""], "an empty name does not exist"),
        (["-", "f", "-"], "- is given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_inputs(inputs)


def test_one_folder_is_in_memory_at_a_time() -> None:
    touch(*(f"f/{folder}/{number}.png" for folder in "abc" for number in range(3)))
    seen: list[str] = []
    stream = folders_below("f")

    def watched() -> Iterator[str]:
        for folder in stream:
            seen.append(folder.path)
            yield from folder.files

    walk = watched()
    next(walk)
    assert seen == ["f", "f/a"], "nothing is listed before it is needed"


def test_counting() -> None:
    touch("f/a.png", "f/b/c.png", "f/x.txt")
    Path("l.txt").write_text("1\n2\n3\n")
    assert count_items(["f", "l.txt", "f/*.png"]) == 6
    assert count_items(["f", "-"]) is None
