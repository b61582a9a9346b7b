"""Files and folders appear whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mirror_pl.files import path_sha256, whole_file, whole_folder, write_text


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
