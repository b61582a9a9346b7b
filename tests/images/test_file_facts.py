"""Facts of a file: what it was saved with is what is read, from a file and from a shard alike, and nothing is decoded."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirror_pl.images.file_facts import FileFacts, file_facts
from mirror_pl.sources.source import ImageSource

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))


def facts(path: Path, **options: Any) -> FileFacts:
    NOISE.save(path, **options)
    found = file_facts(ImageSource(path))
    assert found is not None
    return found


@pytest.mark.parametrize("quality", [1, 30, 75, 96, 100])
def test_a_jpegs_quality_and_subsampling_are_read(tmp_path: Path, quality: int) -> None:
    whole = facts(tmp_path / "a.jpg", quality=quality, subsampling="4:4:4")
    assert (whole.format, whole.width, whole.height) == ("JPEG", 80, 48)
    assert whole.file_size == (tmp_path / "a.jpg").stat().st_size
    assert whole.jpeg_quality == quality
    assert whole.jpeg_tables.endswith(" 4:4:4")
    halved = facts(tmp_path / "b.jpg", quality=quality, subsampling="4:2:0")
    assert halved.jpeg_tables == whole.jpeg_tables.replace("4:4:4", "4:2:0")
    assert halved.jpeg_tables != facts(tmp_path / "c.jpg", quality=50, subsampling="4:2:0").jpeg_tables


def test_tables_of_ones_own_have_the_nearest_quality(tmp_path: Path) -> None:
    plain = facts(tmp_path / "a.jpg", quality=80)
    with Image.open(tmp_path / "a.jpg") as image:
        tables = {
            number: [value + (place == 5) for place, value in enumerate(table)]
            for number, table in image.quantization.items()
        }  # type: ignore[attr-defined]
    own = facts(tmp_path / "b.jpg", qtables=tables)
    assert own.jpeg_quality == plain.jpeg_quality == 80
    assert own.jpeg_tables != plain.jpeg_tables


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp"])
def test_other_formats_have_no_tables(tmp_path: Path, suffix: str) -> None:
    found = facts(tmp_path / f"a{suffix}")
    assert found.format.lower() == suffix[1:]
    assert (found.width, found.height) == (80, 48)
    assert found.jpeg_tables == ""
    assert math.isnan(found.jpeg_quality)


def test_exif_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    for suffix in (".jpg", ".webp", ".png"):
        assert facts(tmp_path / f"a{suffix}", exif=exif).exif
        assert not facts(tmp_path / f"b{suffix}").exif


def test_a_part_of_a_shard_is_read_like_a_file(tmp_path: Path) -> None:
    whole = facts(tmp_path / "a.jpg", quality=60)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "shard").write_bytes(b"before" + content + b"after")
    assert file_facts(ImageSource(tmp_path / "shard", 6, len(content))) == whole


def test_copies_are_known_and_others_are_not(tmp_path: Path) -> None:
    first, second = facts(tmp_path / "a.png"), facts(tmp_path / "b.png")
    assert first.content == second.content
    NOISE.rotate(180).save(tmp_path / "c.png")
    third = file_facts(ImageSource(tmp_path / "c.png"))
    assert third is not None
    assert third.content != first.content


def test_what_is_no_picture_has_no_facts(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("text")
    for path in (tmp_path, tmp_path / "gone.png", tmp_path / "empty.png", tmp_path / "text.png"):
        assert file_facts(ImageSource(path)) is None


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    """A picture that ends after its header has facts."""
    buffer = BytesIO()
    NOISE.save(buffer, "JPEG")
    start = buffer.getvalue().index(b"\xff\xda")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: start + 20])
    found = file_facts(ImageSource(tmp_path / "cut.jpg"))
    assert found is not None
    assert (found.width, found.height) == (80, 48)
