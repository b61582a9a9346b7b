"""Small pictures of a report's worst images, read where the runs read them; what cannot be shown says why."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from mirror_pl.images import IMAGE_SUFFIXES, UndecodableImageError, decode
from mirror_pl.reports.html_page import Picture
from mirror_pl.sources.place import path_of
from mirror_pl.sources.shards import is_shard, list_shard
from mirror_pl.sources.source import ImageSource

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
        pictures = self._pictures.setdefault(data_root, RunPictures(path_of(data_root)))
        try:
            image = pictures.open(path)
        except UndecodableImageError as error:
            return Picture(None, str(error)[:80])
        image.thumbnail((SIDE_PX, SIDE_PX))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=78, optimize=True)
        return Picture(buffer.getvalue())


MAX_FILE_BYTES: Final = 64 * 2**20
MAX_PIXELS: Final = 50_000_000
"""Larger images are not decoded to be looked at: one would take the memory of all the rest."""


class RunPictures:
    """Opens images by their path in a run's prediction table; a shard is listed once.

    Args:
        data_root: Folder that the paths are relative to.
    """

    def __init__(self, data_root: Path) -> None:
        self.data_root = data_root
        self._shards: dict[Path, dict[str, ImageSource]] = {}

    def open(self, path: str) -> Image.Image:
        """Return an image, RGB.

        Raises:
            UndecodableImageError: If it is not there, too large to be shown, or cannot be read; with a few words on why.
        """
        source = self._source(path)
        try:
            size = source.path.stat().st_size if source.offset is None else source.size
            if size > MAX_FILE_BYTES:
                raise UndecodableImageError("a large file")
            content = source.read_bytes()
            if len(content) > MAX_FILE_BYTES:  # of a Parquet file's row, only reading tells
                raise UndecodableImageError("a large file")
        except OSError as error:
            raise UndecodableImageError(error.strerror or "not readable") from error
        if _pixels(content) > MAX_PIXELS:
            raise UndecodableImageError("a large image")
        return decode(content).image

    def _source(self, path: str) -> ImageSource:
        file = self.data_root / path
        try:
            shard = next(filter(is_shard, file.parents), None)
            if shard is not None:
                if shard not in self._shards:
                    self._shards[shard] = _members(shard)
                return self._shards[shard][file.relative_to(shard).as_posix()]
            if PurePosixPath(path).suffix.lower() not in IMAGE_SUFFIXES:  # a table may name any file
                raise UndecodableImageError("no image's suffix")
            if file.is_file():
                return ImageSource(file)
        except (OSError, ValueError, KeyError) as error:  # a name may be too long, or hold what no name can
            raise UndecodableImageError("not found") from error
        raise UndecodableImageError("not found")


def _pixels(content: bytes) -> int:
    """Return how many pixels an encoded image declares; 0 where only decoding can tell what it is."""
    try:
        with Image.open(BytesIO(content), formats=("JPEG", "PNG", "WEBP", "BMP")) as header:
            return header.width * header.height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
    except Exception:  # Pillow raises almost anything on a header
        return 0


def _members(shard: Path) -> dict[str, ImageSource]:
    return {
        "/".join((*folder.parts, name)): ImageSource(shard, offset, size)
        for folder in list_shard(shard, (), IMAGE_SUFFIXES)
        for name, offset, size in zip(folder.names, folder.offsets, folder.sizes, strict=True)
    }
