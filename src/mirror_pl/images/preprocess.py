"""A decoded image becomes the uint8 pixels that enter a detector, as a `PreprocessSpec` declares."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.spec import PreprocessSpec


def preprocess(image: Image.Image, suffix: str, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Apply `spec` to an RGB image.

    Args:
        image: Decoded RGB image of any size.
        suffix: Suffix of the file it came from, with the dot; the format alignment goes by the file's name, whatever
            the file holds, as in the published code. Its letter case does not matter.
        spec: The recipe.

    Returns:
        ``(crop, crop, 3)`` uint8, RGB.
    """
    crop = centre_crop(shrink_short_side(image, spec.max_short_side_px), spec.crop_px)
    if spec.aligns(suffix):
        crop = align_format(crop, spec.align_quality)
    return np.array(crop)


def shrink_short_side(image: Image.Image, max_short_side_px: int | None) -> Image.Image:
    """Resize so that the short side is at most `max_short_side_px`, bicubic with antialias; smaller images are kept."""
    short = min(image.size)
    if max_short_side_px is None or short <= max_short_side_px:
        return image
    return image.resize(scaled_size(image.size, max_short_side_px), Image.Resampling.BICUBIC)


def scaled_size(size: tuple[int, int], short_side_px: int) -> tuple[int, int]:
    """Return ``(width, height)`` with the short side brought to `short_side_px`; the other one is rounded, half to even."""
    short = min(size)
    return round(size[0] * short_side_px / short), round(size[1] * short_side_px / short)


def centre_crop(image: Image.Image, crop_px: int) -> Image.Image:
    """Cut the central square, padding smaller images with zeros; origins are rounded as torchvision rounds them."""
    left, top = (crop_origin(side, crop_px) for side in image.size)
    # Pillow fills what lies outside the image with zeros.
    return image.crop((left, top, left + crop_px, top + crop_px))


def crop_origin(side: int, crop_px: int) -> int:
    """Return where the central crop begins on a side of the image; negative where padding comes first."""
    if side < crop_px:
        return -((crop_px - side) // 2)
    return round((side - crop_px) / 2)


def align_format(image: Image.Image, quality: int) -> Image.Image:
    """Compress to JPEG at `quality` (Pillow's default subsampling) and decode again."""
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
