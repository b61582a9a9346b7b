"""An item becomes a prepared picture, or a reason why not, within bounds of memory: whatever is in the file."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image

from mirror_pl.errors import ConfigError
from mirror_pl.images import PreprocessSpec
from mirror_pl.images.pictures import PreparedPicture, prepare
from mirror_pl.prediction.inputs import Item
from mirror_pl.sources.place import stat_of
from mirror_pl.sources.source import ImageSource


@dataclass(frozen=True)
class Limits:
    """What a picture may cost.

    Attributes:
        max_megapixels: A file that declares more pixels is refused before it is decoded, and so is one that has more bytes
            than any picture of this size.
        timeout_s: A picture that takes longer than this to be decoded is given up. It takes a decoding process to stop one:
            without any, nothing is.
    """

    max_megapixels: float = 178.0
    timeout_s: float = 8.0

    def __post_init__(self) -> None:
        for name in ("max_megapixels", "timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be more than 0, got {getattr(self, name)}")

    @property
    def pixels(self) -> int:
        """Most pixels."""
        return int(self.max_megapixels * 1e6)

    @property
    def bytes(self) -> int:
        """Most bytes of a file: of four channels of 16 bits, uncompressed, and as much again as previews may take."""
        return 8 * self.pixels + _EXTRA_BYTES


_EXTRA_BYTES: Final = 2**26


def prepare_item(
    item: Item, spec: PreprocessSpec, crops: str, limits: Limits, *, with_digest: bool = False
) -> PreparedPicture:
    """Decode an item and cut its crops, as `prepare` does; whatever goes wrong is the picture's reason.

    Args:
        item: What to decode.
        spec: The detector's recipe.
        crops: See `plan_crops`.
        limits: What it may cost.
        with_digest: Whether to read its bytes for a hash, too.
    """
    if item.problem:
        return PreparedPicture(None, status="undecodable", reason=item.problem)
    try:
        size = _size_of(item.source)
        if size > limits.bytes:
            return PreparedPicture(
                None,
                status="undecodable",
                reason=f"a file of {size:,} bytes; no picture within max_megapixels={limits.max_megapixels:g} has so many",
            )
        with _refusing_more_than(limits.pixels):
            found = prepare(item.source, spec, crops, item.suffix)
        if found.reason.startswith(Image.DecompressionBombError.__name__):
            found = replace(found, reason=f"{found.reason} max_megapixels={limits.max_megapixels:g}")
        if with_digest and found.pixels is not None:
            content = hashlib.sha256(item.source if isinstance(item.source, bytes) else item.source.read_bytes())
            content.update(item.suffix.encode("utf-8", "surrogateescape"))  # which a recipe goes by
            found = replace(found, digest=content.digest())
        return found
    except Exception as error:  # of a missing file, or of memory: a row each, and never the run
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        return PreparedPicture(None, status="undecodable", reason=f"{type(error).__name__}: {reason or 'no message'}")


def _size_of(source: ImageSource | bytes) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.size if source.offset is not None else stat_of(source.path).st_size


@contextmanager
def _refusing_more_than(pixels: int) -> Iterator[None]:
    """Let Pillow refuse larger images: it looks at what a header declares, that of each image in a file, before decoding.

    It knows one limit for the whole process. The scores of pictures within Pillow's own limit do not depend on it.
    """
    with _PILLOWS_LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2  # beyond twice this it refuses, and from here on it warns
        try:
            with warnings.catch_warnings():  # what is wrong with a file is in its row
                warnings.simplefilter("ignore")
                yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


_PILLOWS_LIMIT = threading.Lock()
"""Decoding is for processes, each with one thread; others take turns."""
