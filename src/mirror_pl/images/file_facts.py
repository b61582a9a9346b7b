"""What a picture's file tells before a pixel is decoded: format, size, how it was compressed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from mirror_pl.images.decode import encoded, readable_formats
from mirror_pl.sources.source import ImageSource

_HEAD_BYTES: Final = 2**14
"""Of which two different pictures have no equal ones: headers are shorter."""

_SUBSAMPLING: Final = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


@dataclass(frozen=True)
class FileFacts:
    """What is known of a picture without its pixels.

    Attributes:
        format: Of the content, as Pillow names it: JPEG, PNG and so on.
        width: In px.
        height: In px.
        file_size: In bytes; of a picture in a shard, those of its own.
        exif: Whether there is EXIF ahead of the pixels.
        jpeg_tables: Of a JPEG, a digest of its quantisation tables, and its chroma subsampling; else empty.
        jpeg_quality: Of a JPEG, the quality at which libjpeg's luminance table is nearest to its own; else NaN.
        content: A digest of the size and of where the file begins: equal for copies.
    """

    format: str
    width: int
    height: int
    file_size: int
    exif: bool
    jpeg_tables: str
    jpeg_quality: float
    content: str


def file_facts(source: ImageSource) -> FileFacts | None:
    """Read where a picture's file begins, wherever it lies; None if that is no picture, or cannot be read."""
    try:
        content = encoded(source)
        with content.open("rb") if isinstance(content, Path) else content as file:
            head = file.read(_HEAD_BYTES)
            size = file.seek(0, 2)
            file.seek(0)
            with Image.open(file, formats=readable_formats()) as image:
                tables, quality = _of_jpeg(image)
                return FileFacts(
                    format=image.format or "",
                    width=image.width,
                    height=image.height,
                    file_size=size,
                    exif=bool(image.info.get("exif")),
                    jpeg_tables=tables,
                    jpeg_quality=quality,
                    content=sha256(head + str(size).encode()).hexdigest(),
                )
    except Exception:  # Pillow's plugins raise almost anything on malformed input
        return None


def _of_jpeg(image: Image.Image) -> tuple[str, float]:
    tables: dict[int, Any] = getattr(image, "quantization", {})
    if not tables:
        return "", float("nan")
    digest = sha256(repr(sorted((number, list(table)) for number, table in tables.items())).encode()).hexdigest()[:8]
    subsampling = _SUBSAMPLING.get(JpegImagePlugin.get_sampling(image), "other")
    first = np.array(tables[min(tables)], float)
    return f"{digest} {subsampling}", float(1 + np.argmin(np.abs(_libjpeg_tables() - first).sum(1)))


@cache
def _libjpeg_tables() -> NDArray[np.float64]:
    """Return libjpeg's luminance table at qualities 1 to 100, ``(100, 64)``, as Pillow writes it."""
    tables = []
    for quality in range(1, 101):
        buffer = BytesIO()
        Image.new("L", (1, 1)).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as image:
            tables.append(getattr(image, "quantization")[0])  # noqa: B009 - only a JPEG has it
    return np.array(tables, float)
