"""Codecs: the picture is saved with loss, and read again."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from mirror_pl.images.perturb.operation import Operation


def _saved(image: Image.Image, name: str, **options: Any) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, format=name, **options)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def _jpeg(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    return _saved(image, "JPEG", quality=int(quality))


CODECS: Final = {
    "jpeg": Operation(_jpeg, 1, 100, "quality, as Pillow counts it", whole=True, suffix=".jpg"),
}
