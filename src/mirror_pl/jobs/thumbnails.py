"""Small pictures of a report's worst images, read where the runs read them; what cannot be shown says why."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image

from mirror_pl.images import IMAGE_SUFFIXES, UndecodableImageError, decode
from mirror_pl.reports.html_page import Picture

SIDE_PX: Final = 144
"""Longer side of a thumbnail: sharp at the page's size on most screens."""

MAX_FILE_BYTES: Final = 64 * 2**20
MAX_PIXELS: Final = 50_000_000
"""Larger images are not decoded for a thumbnail: they would take the memory of the whole report."""

MAX_TOTAL_BYTES: Final = 2_500_000
"""Of all thumbnails in a page, which is to open at once and to fit into a mail."""


class Thumbnails:
    """Makes thumbnails until the page has enough of them; an image asked for twice is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, Picture] = {}
        self._total = 0

    def of(self, data_root: str, path: str) -> Picture:
        """Return the thumbnail of the image at `path` below a run's `data_root`."""
        file = Path(data_root) / path
        if file not in self._known:
            self._known[file] = self._make(file)
        picture = self._known[file]
        if picture.jpeg is None:
            return picture
        if self._total + len(picture.jpeg) > MAX_TOTAL_BYTES:  # each place in the page holds the bytes anew
            return Picture(None, "left out, the page is large")
        self._total += len(picture.jpeg)
        return picture

    def _make(self, file: Path) -> Picture:
        if self._total >= MAX_TOTAL_BYTES:
            return Picture(None, "left out, the page is large")
        try:
            if any(parent.suffix == ".tar" and parent.is_file() for parent in file.parents):
                return Picture(None, "in a tar shard")
            if file.suffix.lower() not in IMAGE_SUFFIXES or not file.is_file():
                return Picture(None, "not found")
            if file.stat().st_size > MAX_FILE_BYTES:
                return Picture(None, "a large file")
            with Image.open(file, formats=("JPEG", "PNG", "WEBP", "BMP")) as header:
                if header.width * header.height > MAX_PIXELS:
                    return Picture(None, "a large image")
            image = decode(file).image
        except UndecodableImageError as error:
            return Picture(None, str(error)[:80])
        except Exception:  # Pillow raises almost anything on a header; a report is not to fail for a thumbnail
            return Picture(None, "not readable")
        image.thumbnail((SIDE_PX, SIDE_PX))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=78, optimize=True)
        return Picture(buffer.getvalue())
