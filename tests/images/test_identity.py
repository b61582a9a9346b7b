"""An image's identity: other for any change of the file, none while it may be changing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror_pl.images.crop_cache import identity
from mirror_pl.sources.source import ImageSource


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as old, though it is new; the clock of its times has moved on since."""
    monkeypatch.setattr(sys.modules["mirror_pl.images.crop_cache"], "RACY_NS", -(10**10))
    (tmp_path / "other.png").write_bytes(b"others")
    (tmp_path / "x.png").write_bytes(b"before")
    time.sleep(0.02)
    return tmp_path / "x.png"


def rewrite(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"after!")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace(file: Path) -> None:
    os.utime(file.with_name("other.png"), ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    file.with_name("other.png").replace(file)


@pytest.mark.parametrize(
    "change",
    [rewrite, replace, lambda file: file.write_bytes(b"longer"), lambda file: os.utime(file, ns=(0, 0))],
    ids=["rewritten with its old size and time", "replaced", "longer", "touched"],
)
def test_a_changed_file_is_another_image(file: Path, change: Callable[[Path], object]) -> None:
    before = identity(ImageSource(file), ".png")
    assert before is not None
    assert before == identity(ImageSource(file), ".PNG")
    change(file)
    assert identity(ImageSource(file), ".png") not in (None, before)


def test_a_link_that_points_elsewhere_is_another_image(file: Path) -> None:
    link = file.with_name("link.png")
    link.symlink_to("x.png")
    before = identity(ImageSource(link), ".png")
    link.unlink()
    link.symlink_to("other.png")
    assert identity(ImageSource(link), ".png") not in (None, before)


def test_parts_of_a_file_are_different_images(file: Path) -> None:
    sources = [ImageSource(file), ImageSource(file, 0, 3), ImageSource(file, 0, 4), ImageSource(file, 1, 3)]
    every = [identity(source, suffix) for source in sources for suffix in (".png", ".jpg")]
    assert None not in every
    assert len(set(every)) == 8
    assert {len(one) for one in every if one} == {16}


def test_a_file_that_may_be_changing_has_none(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    os.utime(tmp_path / "x.png", ns=(0, 0))  # which the time of the inode's change gives away
    assert identity(ImageSource(tmp_path / "x.png"), ".png") is None
    assert identity(ImageSource(tmp_path / "absent.png"), ".png") is None
    assert identity(ImageSource(tmp_path / "a\0b.png"), ".png") is None
    assert identity(ImageSource(tmp_path / os.fsdecode(b"\xff.png")), ".png") is None


def test_a_name_that_is_not_utf8_has_one(file: Path) -> None:
    name = file.with_name(os.fsdecode(b"\xff.png"))
    file.rename(name)
    assert identity(ImageSource(name), ".png") is not None
