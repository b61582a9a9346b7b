"""Decoding: every file becomes an image or a reason."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

from mirror_pl.images import UndecodableImageError, decode
from mirror_pl.sources.source import ImageSource

NOISE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def encoded(format: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(NOISE).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP"])
def test_whole_files_are_not_marked(tmp_path: Path, format: str) -> None:
    (tmp_path / "x").write_bytes(encoded(format))
    decoded = decode(tmp_path / "x")
    assert decoded.flaw == ""
    assert decoded.image.mode == "RGB"
    assert decoded.image.size == (80, 64)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_part_of_a_file_is_decoded_like_a_file(tmp_path: Path, format: str) -> None:
    content = encoded(format)
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "shard").write_bytes(b"before" + content + content[:-40] + b"no image")
    whole = decode(tmp_path / "x")
    part = decode(ImageSource(tmp_path / "shard", 6, len(content)))
    assert np.array_equal(whole.image, part.image)
    assert part.flaw == ""
    (tmp_path / "x").write_bytes(content[:-40])
    cut = ImageSource(tmp_path / "shard", 6 + len(content), len(content) - 40)
    if format == "WEBP":  # Pillow decodes none of a cut one
        for source in (tmp_path / "x", cut):
            with pytest.raises(UndecodableImageError, match="OSError: could not create decoder object"):
                decode(source)
    else:
        assert np.array_equal(decode(tmp_path / "x").image, decode(cut).image)
        assert decode(tmp_path / "x").flaw == decode(cut).flaw != ""
    for source, reason in [
        (ImageSource(tmp_path / "shard", 0, 0), "an empty file"),
        (ImageSource(tmp_path / "shard", (tmp_path / "shard").stat().st_size - 8, 8), "cannot identify the file"),
        (ImageSource(tmp_path / "shard", 6, 10**6), "shard ends"),
        (ImageSource(tmp_path / "gone", 6, 10), "No such file"),
    ]:
        with pytest.raises(UndecodableImageError, match=reason):
            decode(source)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP"])
def test_truncated_files_are_decoded_as_far_as_they_go_and_marked(tmp_path: Path, format: str) -> None:
    content = encoded(format)
    (tmp_path / "x").write_bytes(content[: len(content) // 2])
    decoded = decode(tmp_path / "x")
    assert "truncated" in decoded.flaw
    whole = Image.open(BytesIO(content)).convert("RGB")
    # BMP stores the last row first.
    rows = slice(-8, None) if format == "BMP" else slice(0, 8)
    np.testing.assert_array_equal(np.array(decoded.image)[rows], np.array(whole)[rows])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "Pillow's switch is put back"


def test_undecodable_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {}
    for name in ("empty.png", "text.jpg", "folder.png", "dangling.png", "pipe.png", "absent.png"):
        with pytest.raises(UndecodableImageError) as caught:
            decode(tmp_path / name)
        reasons[name] = str(caught.value)
    assert reasons["empty.png"] == "an empty file"
    assert reasons["folder.png"] == "a folder, not a file"
    assert reasons["pipe.png"] == "a pipe or device, not a file"
    assert "cannot identify" in reasons["text.jpg"]
    assert "No such file" in reasons["dangling.png"]
    assert "No such file" in reasons["absent.png"]
    assert all("\n" not in reason for reason in reasons.values())


def test_images_over_pillows_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 64 // 2 - 1)
    with pytest.raises(UndecodableImageError, match="DecompressionBombError"):
        decode(tmp_path / "x.png")


def test_files_of_more_bytes_than_any_image_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as sparse:
        sparse.write(encoded("PNG"))
        sparse.truncate(10**12)
    for source in (ImageSource(tmp_path / "x.png"), ImageSource(tmp_path / "x.png", 0, 10**12)):
        with pytest.raises(UndecodableImageError, match=r"a file of 1,000,000,000,000 bytes; .* 178\.957 megapixels"):
            decode(source)


def test_unreadable_files_say_why(unprivileged_folder: Path) -> None:
    image = unprivileged_folder / "x.png"
    image.write_bytes(encoded("PNG"))
    assert decode(image).flaw == ""
    image.chmod(0)
    with pytest.raises(UndecodableImageError, match="Permission denied"):
        decode(image)


def png_with(chunk: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    whole = encoded("PNG")
    extra = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    return whole[:33] + extra + whole[33:]


@pytest.mark.parametrize(
    "content",
    [
        png_with(b"pHYs", b"\0"),
        png_with(b"gAMA", b"\0"),
        png_with(b"sRGB", b""),
        png_with(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 2_000_000)),
    ],
    ids=["pHYs", "gAMA", "sRGB", "zTXt"],
)
def test_what_pillow_reads_with_its_switch_on_is_read_and_marked(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code reads with the switch on. Pillow 12 refuses a short gAMA even so, and then it is refused here."""
    (tmp_path / "x.png").write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        try:
            expected = Image.open(tmp_path / "x.png").convert("RGB")
        except UnidentifiedImageError:
            expected = None
    if expected is None:
        with pytest.raises(UndecodableImageError, match="cannot identify"):
            decode(tmp_path / "x.png")
        return
    decoded = decode(tmp_path / "x.png")
    np.testing.assert_array_equal(np.array(decoded.image), np.array(expected))
    assert decoded.flaw


def test_formats_of_other_programs_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(UndecodableImageError, match="cannot identify"):
        decode(tmp_path / "x.png")
