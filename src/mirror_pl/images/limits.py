"""What a picture may cost, where that is less than what `decode` allows by itself."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from mirror_pl.errors import ConfigError


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

    @contextmanager
    def of_size(self) -> Iterator[None]:
        """Refuse larger pictures in the block: Pillow looks at what a header declares, that of each image in a file.

        It knows one limit for the whole process. The scores of pictures within Pillow's own limit do not depend on it.
        """
        with _PILLOWS_LIMIT:
            before = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = (int(self.max_megapixels * 1e6) + 1) // 2  # beyond twice this it refuses
            try:
                with warnings.catch_warnings():  # from once this it warns, and what is wrong with a file is in its row
                    warnings.simplefilter("ignore")
                    yield
            finally:
                Image.MAX_IMAGE_PIXELS = before


_PILLOWS_LIMIT = threading.Lock()
"""Decoding is for processes, each with one thread; others take turns."""
