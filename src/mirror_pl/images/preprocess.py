"""A decoded image becomes the uint8 pixels that enter a detector, as a `PreprocessSpec` declares."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from typing import Final, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.opencv import opencv_resize
from mirror_pl.images.spec import PreprocessSpec, Resample


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
    size = resized_size(image.size, spec)
    left, top = (crop_origin(side, spec.crop_px, spec.crop_from) for side in size)
    # Pillow fills what lies outside the image with zeros.
    crop = resized(image, size, spec.resample).crop((left, top, left + spec.crop_px, top + spec.crop_px))
    if spec.aligns(suffix):
        crop = align_format(crop, spec.align_quality)
    return np.array(crop)


def resized_size(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Return the width and height that the recipe brings an image to before it is cut."""
    if spec.squash_px is not None:
        return spec.squash_px, spec.squash_px
    if spec.short_side_px is not None:
        short = min(size)
        return int(spec.short_side_px * size[0] / short), int(spec.short_side_px * size[1] / short)
    limit = spec.max_short_side_px
    return size if limit is None or min(size) <= limit else scaled_size(size, limit)


def resized(image: Image.Image, size: tuple[int, int], resample: Resample) -> Image.Image:
    """Return an RGB image at another size; itself where it has that size already."""
    if image.size == size:
        return image
    if resample == "opencv":
        return opencv_resize(image, size)
    return image.resize(size, Image.Resampling[resample.upper()])


def resized_part(
    image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int], resample: Resample
) -> Image.Image:
    """Return a part of what `resized` returns, zeros where it reaches beyond, to the last bit; most of the rest is not made.

    Pillow computes the weights of a pixel from where its centre falls on the source. Along a side whose scale is a fraction
    over a power of two, as of all that is brought to a short side of 512, that place is exact in its floating point wherever
    it begins to count, so that it may begin at the part. Along other sides it begins at the image's edge. Of images that are
    more than 100 times as high as wide, the whole is made: whether rows or columns come first goes by the size to be made.

    Args:
        image: RGB.
        size: To be resized to.
        part: Left, top, right and bottom, in pixels of that size.
        resample: The filter.
    """
    if image.size == size or resample == "opencv" or not _ROWS_FIRST or image.height > 100 * image.width:
        return resized(image, size, resample).crop(part)
    box, small, shown = [0.0, 0.0, *map(float, image.size)], list(size), list(part)
    for axis in (0, 1):
        low, high = part[axis], part[axis + 2]
        begin, end = (edge * image.size[axis] / size[axis] for edge in (low, high))
        over = Fraction(image.size[axis], size[axis]).denominator
        exact = over & (over - 1) == 0 and all(np.float32(edge) == edge for edge in (begin, end))
        if low >= 0 and high <= size[axis] and exact:
            box[axis], box[axis + 2], small[axis] = begin, end, high - low
            shown[axis], shown[axis + 2] = 0, high - low
    left, top, right, bottom = box
    made = image.resize((small[0], small[1]), Image.Resampling[resample.upper()], (left, top, right, bottom))
    return made.crop((shown[0], shown[1], shown[2], shown[3]))


_ROWS_FIRST: Final = int(PIL.__version__.partition(".")[0]) < 13
"""Pillow rounds to whole levels between rows and columns. From 13 on, which come first goes by all sizes, the part's too."""


def scaled_size(size: tuple[int, int], short_side_px: int) -> tuple[int, int]:
    """Return ``(width, height)`` with the short side brought to `short_side_px`; the other one is rounded, half to even."""
    short = min(size)
    return round(size[0] * short_side_px / short), round(size[1] * short_side_px / short)


def crop_origin(side: int, crop_px: int, rounding: Literal["even", "floor"] = "even") -> int:
    """Return where the central crop begins on a side of the image; negative where padding comes first.

    Args:
        side: In pixels.
        crop_px: Likewise.
        rounding: Of a half: ``even``, or ``floor``, which pads one more before the image than after it.
    """
    if rounding == "floor":
        return (side - crop_px) // 2
    if side < crop_px:
        return -((crop_px - side) // 2)
    return round((side - crop_px) / 2)


def align_format(image: Image.Image, quality: int) -> Image.Image:
    """Compress to JPEG at `quality` (Pillow's default subsampling) and decode again."""
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
