"""Files and folders appear whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_pl.errors import name_list
from mirror_pl.files import path_sha256, whole_file, whole_folder, write_text
from mirror_pl.texts import Texts, csv_text, printable, storable


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    write_text(target, "before\n")
    with pytest.raises(RuntimeError), whole_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "before\n"
    with whole_file(target) as temporary:
        temporary.write_text("after")
        assert target.read_text() == "before\n"
    assert target.read_text() == "after"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "above" / "x"
    with pytest.raises(RuntimeError), whole_folder(target) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with whole_folder(target) as temporary:
        (temporary / "a").write_text("whole")
    assert (target / "a").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o077 == tmp_path.joinpath("above").stat().st_mode & 0o077


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_bytes(b"x" * 3_000_000)
    assert path_sha256(tmp_path / "f" / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    before = path_sha256(tmp_path / "f")
    (tmp_path / "f" / "a").rename(tmp_path / "f" / "b")
    assert path_sha256(tmp_path / "f") != before


STEERING = {
    "\x1b[2J": "\\x1b[2J",
    "a\nb": "a\\nb",
    "a\r\tb": "a\\r\\tb",
    "\x9b31m": "\\x9b31m",
    "\x7f\x00": "\\x7f\\x00",
    "gnp.\u202eexe": "gnp.\\u202eexe",
    "\u2066\u2069\u200f\u061c": "\\u2066\\u2069\\u200f\\u061c",
    "\u2028": "\\u2028",
    "\udcff": "\\xff",
}


def test_what_steers_a_terminal_is_shown_as_an_escape() -> None:
    for name, shown in STEERING.items():
        assert printable(name) == shown
        assert printable(shown) == shown, "what was escaped stays"
        assert name_list([name]) == shown
    for name in ("图 ü.png", "👩\u200d🚀", "\\n", "سلام"):
        assert printable(name) == storable(name) == name
    assert storable("a\nb\x1b\udcff") == "a\nb\x1b\\xff", "in a file, it is the name"


def test_no_text_in_a_csv_is_a_formula() -> None:
    formulas = ["=1+1", "+1+1", "-cmd", "@SUM(1)", "\t=1", "\r=1", "\n=1", "-", "- 1", "\uff1d1", "-1;=1", "=1,2"]
    plain = ["a=1", " =1", "", "'", "-1.5", "+2", "-1e-05 2.0", "-inf", "nan", "1"]
    text = csv_text([formulas, plain, [-1.5, None, True, -2]])
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [[f"'{cell}" for cell in formulas], plain, ["-1.5", "", "True", "-2"]]
    assert csv_text([["a", 1]], end="\r\n") == "a,1\r\n"


@given(st.lists(st.text()), st.integers(-9, 9))
def test_texts_are_a_list_of_them(some: list[str], place: int) -> None:
    texts = Texts(some := [*some, os.fsdecode(b"\xff/a.png")])
    assert texts == some
    assert [*texts] == some
    assert texts[place:] == some[place:]
    assert pickle.loads(pickle.dumps(texts)) == some
    if -len(some) <= place < len(some):
        assert texts[place] == some[place]
    else:
        with pytest.raises(IndexError):
            texts[place]
