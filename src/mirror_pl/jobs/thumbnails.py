"""Small pictures of a report's worst images, read where the runs read them; what cannot be shown says why."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Final

from mirror_pl.images import UndecodableImageError
from mirror_pl.jobs.run_pictures import RunPictures
from mirror_pl.reports.html_page import Picture

SIDE_PX: Final = 144
"""Longer side of a thumbnail: sharp at the page's size on most screens."""

MAX_TOTAL_BYTES: Final = 2_500_000
"""Of all thumbnails in a page, which is to open at once and to fit into a mail."""


class Thumbnails:
    """Makes thumbnails until the page has enough of them; an image asked for twice is read once."""

    def __init__(self) -> None:
        self._pictures: dict[str, RunPictures] = {}
        self._known: dict[tuple[str, str], Picture] = {}
        self._total = 0

    def of(self, data_root: str, path: str) -> Picture:
        """Return the thumbnail of the image at `path` below a run's `data_root`."""
        key = data_root, path
        if key not in self._known:
            self._known[key] = self._make(data_root, path)
        picture = self._known[key]
        if picture.jpeg is None:
            return picture
        if self._total + len(picture.jpeg) > MAX_TOTAL_BYTES:  # each place in the page holds the bytes anew
            return Picture(None, "left out, the page is large")
        self._total += len(picture.jpeg)
        return picture

    def _make(self, data_root: str, path: str) -> Picture:
        if self._total >= MAX_TOTAL_BYTES:
            return Picture(None, "left out, the page is large")
        pictures = self._pictures.setdefault(data_root, RunPictures(Path(data_root)))
        try:
            image = pictures.open(path)
        except UndecodableImageError as error:
            return Picture(None, str(error)[:80])
        image.thumbnail((SIDE_PX, SIDE_PX))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=78, optimize=True)
        return Picture(buffer.getvalue())
