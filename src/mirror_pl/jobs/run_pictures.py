"""The images of a run, opened where the run read them: files, and members of tar shards."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from mirror_pl.benchmarks.shards import SHARD_SUFFIX, list_shard
from mirror_pl.images import IMAGE_SUFFIXES, UndecodableImageError, decode
from mirror_pl.sources import ImageSource

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
        if PurePosixPath(path).suffix.lower() not in IMAGE_SUFFIXES:  # a table may name any file
            raise UndecodableImageError("no image's suffix")
        source = self._source(path)
        try:
            size = source.path.stat().st_size if source.offset is None else source.size
            if size > MAX_FILE_BYTES:
                raise UndecodableImageError("a large file")
            content = source.read_bytes()
        except OSError as error:
            raise UndecodableImageError(error.strerror or "not readable") from error
        if _pixels(content) > MAX_PIXELS:
            raise UndecodableImageError("a large image")
        return decode(content).image

    def _source(self, path: str) -> ImageSource:
        file = self.data_root / path
        try:
            if file.is_file():
                return ImageSource(file)
            shard = next((above for above in file.parents if above.suffix.lower() == SHARD_SUFFIX and above.is_file()), None)
            if shard is not None:
                if shard not in self._shards:
                    self._shards[shard] = _members(shard)
                return self._shards[shard][file.relative_to(shard).as_posix()]
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
        for folder in list_shard(shard, (), IMAGE_SUFFIXES, frozenset())
        for name, offset, size in zip(folder.names, folder.offsets, folder.sizes, strict=True)
    }
