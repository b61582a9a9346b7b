"""Codecs: the picture is saved with loss, and read again."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from mirror_pl.images.decode import UndecodableImageError
from mirror_pl.images.perturb.operation import Operation


def _codec(name: str, options: Callable[[Image.Image, float], dict[str, Any]]) -> Any:
    """Return what saves an image in Pillow's format `name`, and reads it."""

    def saved(image: Image.Image, level: float, _: np.random.Generator) -> Image.Image:
        buffer = BytesIO()
        try:
            image.save(buffer, format=name, **options(image, level))
        except (OSError, ValueError) as error:
            width, height = image.size
            reason = f"{name} cannot hold the perturbed picture of {width} x {height} px ({error}); see long_side"
            raise UndecodableImageError(reason) from error
        buffer.seek(0)
        return Image.open(buffer).convert("RGB")

    return saved


def _wavelets(image: Image.Image, ratio: float) -> dict[str, Any]:
    halvings = min(image.size).bit_length() - 1
    return {
        "quality_mode": "rates",
        "quality_layers": [ratio],
        "irreversible": True,
        "num_resolutions": min(6, halvings + 1),  # more than a small picture has is an error
    }


CODECS: Final = {
    "jpeg": Operation(
        _codec("JPEG", lambda _, quality: {"quality": int(quality), "subsampling": "4:2:0"}),
        1,
        100,
        "quality, as libjpeg counts it",
        whole=True,
        suffix=".jpg",
    ),
    "webp": Operation(
        _codec("WEBP", lambda _, quality: {"quality": int(quality), "method": 4}),
        0,
        100,
        "quality, as libwebp counts it",
        whole=True,
        suffix=".webp",
        feature="webp",
    ),
    "avif": Operation(
        _codec("AVIF", lambda _, quality: {"quality": int(quality), "speed": 8, "max_threads": 1}),
        0,
        100,
        "quality, as libavif counts it",
        whole=True,
        suffix=".avif",
        feature="avif",
    ),
    "jpeg2000": Operation(
        _codec("JPEG2000", _wavelets),
        1,
        1000,
        "how many times fewer bytes than pixels take",
        suffix=".jp2",
        feature="jpg_2000",
    ),
}
