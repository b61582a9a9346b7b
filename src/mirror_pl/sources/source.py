"""Where an image's bytes are: a file of its own, or a member of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mirror_pl.sources.shards import read_member


@dataclass(frozen=True)
class ImageSource:
    """A file, or an image in a shard; of a file that is none, `size` bytes from `offset` on.

    Attributes:
        path: The file.
        offset: Where the image is in it: in a tar the byte that it begins at, in a zip that of the member's header, in a
            Parquet file the row. None where the file is the image.
        size: Bytes of such an image; -1 in a Parquet file, which does not say.
    """

    path: Path
    offset: int | None = None
    size: int = -1

    def read_bytes(self) -> bytes:
        """Return the image's bytes, still encoded.

        Raises:
            OSError: If the file cannot be read, ends before the image does, or the image is damaged in the shard, missing
                from its row, or of more bytes than any picture has.
        """
        return self.path.read_bytes() if self.offset is None else read_member(self.path, self.offset, self.size)
