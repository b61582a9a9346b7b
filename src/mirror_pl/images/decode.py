"""A file becomes an RGB image, or a reason why not. Never another file's image."""

from __future__ import annotations

import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image, ImageFile, UnidentifiedImageError

from mirror_pl.images.opencv import opencv_rgb
from mirror_pl.images.spec import Decoder
from mirror_pl.sources.source import ImageSource

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
"""Suffixes the published protocol reads, in lower case; the case of a file's own suffix does not matter."""


@dataclass(frozen=True)
class DecodedImage:
    """An RGB image.

    Attributes:
        image: In mode RGB.
        flaw: Where the file is damaged or ends early, what Pillow found wrong; otherwise empty.
        format: Of the content, as Pillow names it: JPEG, PNG and so on.
    """

    image: Image.Image
    flaw: str
    format: str = ""


class UndecodableImageError(Exception):
    """The file holds no image that can be read; the message is the reason, in one line."""


def decode(source: Path | ImageSource | bytes, decoder: Decoder = "pillow") -> DecodedImage:
    """Decode an image to RGB, as the published code does: EXIF orientation not applied, alpha dropped.

    With the decoder ``opencv``, the pixels are those that OpenCV makes of the file (see `opencv_rgb`); Pillow reads it in
    either case.

    A file that is damaged or ends early is decoded as far as it goes, and marked. The format is told by the content; formats
    that Pillow hands to another program (EPS to Ghostscript) are not read.

    Raises:
        UndecodableImageError: If the file is empty, no image, a folder, unreadable, over Pillow's limit on pixels
            (``2 * PIL.Image.MAX_IMAGE_PIXELS``), or of more bytes than any image within that; such a one is not read.
    """
    if isinstance(source, Path):
        source = ImageSource(source)
    try:
        content = encoded(source)
        try:
            with _truncation.refused():
                return _to_rgb(content, decoder)
        except Image.DecompressionBombError:
            raise
        except Exception as error:  # Pillow's plugins raise almost anything on malformed input
            flaw = _one_line(error)
        # Only here, out of the except clause, is the image that the error's frames held free.
        with _truncation.allowed():
            return replace(_to_rgb(content, decoder), flaw=flaw)
    except UndecodableImageError:
        raise
    except Exception as error:
        raise UndecodableImageError(_one_line(error)) from error


def encoded(source: ImageSource | bytes) -> Path | BytesIO:
    """Return what Pillow opens: the file itself, or the image's bytes out of a shard.

    Raises:
        UndecodableImageError: If that is empty, no regular file, or of more bytes than any image has.
        OSError: If it cannot be read.
    """
    if isinstance(source, bytes):
        _check_bytes(len(source))
        return BytesIO(source)
    if source.offset is not None:
        _check_bytes(source.size)
        return encoded(source.read_bytes())
    if not isinstance(source.path, Path):  # a URL
        _check_bytes(source.path.stat().st_size)
        return BytesIO(source.read_bytes())
    status = source.path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UndecodableImageError("a folder, not a file")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
        raise UndecodableImageError("a pipe or device, not a file")
    _check_bytes(status.st_size)
    return source.path


def _check_bytes(size: int) -> None:
    if size == 0:
        raise UndecodableImageError("an empty file")
    pixels = 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)
    if size > 8 * pixels + _EXTRA_BYTES:  # four channels of 16 bits, uncompressed
        raise UndecodableImageError(f"a file of {size:,} bytes; no image of {pixels / 1e6:g} megapixels has so many")


_EXTRA_BYTES: Final = 2**26
"""That previews and the like may take."""


def _one_line(error: Exception) -> str:
    """Say what went wrong without naming the file, which stands beside it wherever this is shown."""
    reason = " ".join(str(error).split()) or "no message"
    if isinstance(error, UnidentifiedImageError):
        reason = "cannot identify the file"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return f"{type(error).__name__}: {reason}"


def _to_rgb(content: Path | BytesIO, decoder: Decoder) -> DecodedImage:
    with Image.open(content, formats=readable_formats()) as image:
        image.load()
        return DecodedImage(as_rgb(image, decoder), "", image.format or "")


def as_rgb(image: Image.Image, decoder: Decoder) -> Image.Image:
    """Return an image in mode RGB, by the rules of a decoder; itself where nothing is to be done."""
    if decoder == "opencv":
        return opencv_rgb(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy one that is RGB already


@cache
def readable_formats() -> tuple[str, ...]:
    """Formats this Pillow reads by itself; the usual ones first, for they are tried in turn."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _OTHER_PROGRAMS, key=lambda name: (name not in _USUAL, name)))


_USUAL = {"BMP", "JPEG", "PNG", "WEBP"}
"""Formats that no other one is mistaken for."""


_OTHER_PROGRAMS = {"EPS", "WMF", "FPX", "MIC", "BUFR", "GRIB", "HDF5"}
"""Formats read by another program or library, which a file of unknown origin must not start."""


class _Truncation:
    """Whether Pillow decodes files that end early: it knows one switch for the whole process.

    No thread may decode by another one's setting. So any number of threads may refuse such files at the same time, and a
    thread that allows them waits until it is the only one that decodes.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._refusing = 0

    @contextmanager
    def refused(self) -> Iterator[None]:
        with self._state:
            self._refusing += 1
        try:
            yield
        finally:
            with self._state:
                self._refusing -= 1
                self._state.notify_all()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        with self._state:
            self._state.wait_for(lambda: self._refusing == 0)
            before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                yield
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = before


_truncation = _Truncation()
