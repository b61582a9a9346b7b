"""Which squares of an image a detector sees: the central one, as published, or several.

A plan is data: where each crop lies, and in which size of the image. Pixels are cut by it, and maps are drawn by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.errors import ConfigError, nearest
from mirror_pl.images.decode import UndecodableImageError
from mirror_pl.images.preprocess import align_format, crop_origin, resized, resized_part, resized_size
from mirror_pl.images.spec import PreprocessSpec

Size = tuple[int, int]


@dataclass(frozen=True)
class Crop:
    """A square that is cut from an image.

    Attributes:
        resized: Width and height that the image is brought to first, in pixels.
        left: Where the square begins in that; negative where zeros come first.
        top: Likewise.
        side: Of the square, in pixels.
        period: Where the image is too small, and is repeated in place of zeros: width and height, from its top left, of what
            is repeated, in pixels. The square then begins there too.
    """

    resized: Size
    left: int
    top: int
    side: int
    period: Size | None = None

    def box(self, size: Size) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in an image of its first size, in its pixels; it may lie partly outside."""
        across, down = size[0] / self.resized[0], size[1] / self.resized[1]
        return self.left * across, self.top * down, (self.left + self.side) * across, (self.top + self.side) * down


def plan_crops(size: Size, spec: PreprocessSpec, crops: str = "center") -> tuple[Crop, ...]:
    """Say which crops of an image a detector sees.

    ========== =============================================================================================
    center     the central crop, as published
    five       the four corners, then the centre
    gridNxN    N x N crops, N 3, 4 or 5, row by row; their origins are spread evenly from 0 to side - crop
    multiscale the central crops of the image at 0.5, 1 and 2 times the size that the recipe brings it to
    native     the central crop of the image as it is, without resizing
    windows    the centre and the four corners on a grid of 14 px, repeating small images, as B-Free looks
    ========== =============================================================================================

    Sides that are smaller than a crop are padded as for the central crop, but by ``windows``. Origins are rounded, half to
    even.

    Args:
        size: Width and height of the decoded image, in pixels.
        spec: The recipe.
        crops: One of `CROPS`.

    Raises:
        ConfigError: If it is none of them.
        UndecodableImageError: If there is nothing of the image that ``windows`` could repeat.
    """
    if crops not in CROPS:
        raise ConfigError(f"crops={crops}: there is no such mode.{nearest(crops, CROPS)} Available: {', '.join(CROPS)}")
    return _PLANS[crops](size, spec)


def cut(image: Image.Image, suffix: str, spec: PreprocessSpec, plan: tuple[Crop, ...]) -> NDArray[np.uint8]:
    """Cut crops from a decoded RGB image.

    Args:
        image: Of the size that the plan was made for.
        suffix: Suffix of its file, with the dot; see `preprocess`. Each crop is aligned by itself.
        spec: The recipe.
        plan: From `plan_crops`.

    Returns:
        ``(C, crop, crop, 3)`` uint8, RGB; for ``center``, exactly what `preprocess` returns.
    """
    sizes: dict[Size, Image.Image] = {image.size: image}
    found = np.empty((len(plan), spec.crop_px, spec.crop_px, 3), np.uint8)
    for number, crop in enumerate(plan):
        if number and crop == plan[number - 1]:
            found[number] = found[number - 1]
            continue
        edges = (crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)
        if len(plan) == 1 and crop.period is None:
            square = resized_part(image, crop.resized, edges, spec.resample)
        else:
            if crop.resized not in sizes:
                sizes[crop.resized] = resized(image, crop.resized, spec.resample)
            square = _square(sizes[crop.resized], crop)
        if spec.aligns(suffix):
            square = align_format(square, spec.align_quality)
        found[number] = np.asarray(square)
    return found


def _square(image: Image.Image, crop: Crop) -> Image.Image:
    """Cut a crop from an image of the size that the crop is of."""
    if crop.period is not None:
        columns, rows = (np.arange(crop.side) % length for length in crop.period)
        return Image.fromarray(np.asarray(image)[rows[:, None], columns])
    # Pillow fills what lies outside the image with zeros.
    return image.crop((crop.left, crop.top, crop.left + crop.side, crop.top + crop.side))


def _central(size: Size, spec: PreprocessSpec) -> Crop:
    left, top = (crop_origin(side, spec.crop_px, spec.crop_from) for side in size)
    return Crop(size, left, top, spec.crop_px)


def _center(size: Size, spec: PreprocessSpec) -> tuple[Crop, ...]:
    return (_central(resized_size(size, spec), spec),)


def _native(size: Size, spec: PreprocessSpec) -> tuple[Crop, ...]:
    return (_central(size, spec),)


def _multiscale(size: Size, spec: PreprocessSpec) -> tuple[Crop, ...]:
    shrunk = resized_size(size, spec)
    sizes = [shrunk if scale == 1 else tuple(max(1, round(side * scale)) for side in shrunk) for scale in SCALES]
    return tuple(_central((width, height), spec) for width, height in sizes)


def _origins(side: int, crop: int, count: int) -> list[int]:
    """Return where `count` crops begin on a side of the image."""
    if side <= crop:
        return [crop_origin(side, crop)] * count
    return [round(number * (side - crop) / (count - 1)) for number in range(count)]


def _grid(count: int) -> Callable[[Size, PreprocessSpec], tuple[Crop, ...]]:
    def plan(size: Size, spec: PreprocessSpec) -> tuple[Crop, ...]:
        shrunk, side = resized_size(size, spec), spec.crop_px
        across, down = (_origins(length, side, count) for length in shrunk)
        return tuple(Crop(shrunk, left, top, side) for top in down for left in across)

    return plan


def _five(size: Size, spec: PreprocessSpec) -> tuple[Crop, ...]:
    return (*_grid(2)(size, spec), *_center(size, spec))


def _windows(size: Size, spec: PreprocessSpec) -> tuple[Crop, ...]:
    """Five windows: centre, top left, bottom left, bottom right, top right.

    A detector that cuts the image into patches of `WINDOW_STEP_PX` first, and its windows from the map of patches, sees the
    same pixels if the crop's side is a multiple of that: what is left over at the right and at the bottom is never looked
    at. If *either* side has too few patches, the map is repeated and cut along *both*, so that of a long side only the
    beginning is seen, five times.
    """
    shrunk, side, step = resized_size(size, spec), spec.crop_px, WINDOW_STEP_PX
    if min(shrunk) < step:
        raise UndecodableImageError(f"smaller than {step} px: {shrunk[0]} x {shrunk[1]}")
    if min(shrunk) < side:
        width, height = (length // step * step for length in shrunk)
        return (Crop(shrunk, 0, 0, side, (width, height)),) * 5
    right, bottom = ((length - side) // step for length in shrunk)
    origins = ((right // 2, bottom // 2), (0, 0), (0, bottom), (right, bottom), (right, 0))
    return tuple(Crop(shrunk, across * step, down * step, side) for across, down in origins)


WINDOW_STEP_PX: Final = 14
"""Side of a patch of the detector that looks by ``windows``."""
SCALES: Final = (0.5, 1, 2)
"""Of ``multiscale``."""

_PLANS: Final[dict[str, Callable[[Size, PreprocessSpec], tuple[Crop, ...]]]] = {
    "center": _center,
    "five": _five,
    "grid3x3": _grid(3),
    "grid4x4": _grid(4),
    "grid5x5": _grid(5),
    "multiscale": _multiscale,
    "native": _native,
    "windows": _windows,
}
CROPS: Final = tuple(_PLANS)
"""What `plan_crops` knows."""


def crop_count(crops: str) -> int:
    """Return how many crops a mode makes of an image, which does not depend on the image."""
    return len(plan_crops((WINDOW_STEP_PX, WINDOW_STEP_PX), PreprocessSpec(), crops))
