"""Where an image's bytes are: a file of its own, or a part of a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageSource:
    """A file, or `size` bytes of it from `offset` on.

    Attributes:
        path: The file.
        offset: Where the image begins in it; None where the file is the image.
        size: Bytes of such a part.
    """

    path: Path
    offset: int | None = None
    size: int = -1

    def read_bytes(self) -> bytes:
        """Return the image's bytes, still encoded.

        Raises:
            OSError: If the file cannot be read, or ends before the part does.
        """
        if self.offset is None:
            return self.path.read_bytes()
        with self.path.open("rb") as opened:
            opened.seek(self.offset)
            content = opened.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.path.name} ends {self.size - len(content)} bytes before this image does")
        return content
