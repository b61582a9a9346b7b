"""The photographs that the miniature world is cut from, and which of them are kept for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.errors import DataError, name_list
from mirror_pl.images import UndecodableImageError, decode
from mirror_pl.miniature.spec import WorldSpec

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

PHOTOGRAPHS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "astronaut",
        "brick",
        "coffee",
        "coins",
        "grass",
        "hubble_deep_field",
        "immunohistochemistry",
        "raccoon",
        "retina",
    ),
    "val": ("camera",),
    "test": ("ascent", "chelsea", "gravel", "rocket"),
}
"""Names of the photographs of each split. No two splits share one: a test shows scenes that nothing was trained on."""


def read_photographs(folder: Path, split: Split) -> dict[str, NDArray[np.uint8]]:
    """Read the photographs of a split.

    Args:
        folder: Holds ``NAME.jpg`` for each name of `PHOTOGRAPHS`.
        split: Which of them.

    Returns:
        By name, in the order of `PHOTOGRAPHS`, ``(H, W, 3)`` uint8, RGB.

    Raises:
        DataError: If one is missing or cannot be read.
    """
    files = {name: folder / f"{name}.jpg" for name in PHOTOGRAPHS[split]}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise DataError(
            f"miniature: {folder} has no {name_list(missing)}; expected the photographs that come with this project, in a "
            "checkout data/miniature/photographs (git checkout data/miniature brings back what was deleted)"
        )
    return {name: _read(file) for name, file in files.items()}


def _read(file: Path) -> NDArray[np.uint8]:
    try:
        decoded = decode(file)
    except UndecodableImageError as error:
        raise DataError(_damaged(file, str(error))) from error
    if decoded.flaw:
        raise DataError(_damaged(file, decoded.flaw))
    return np.array(decoded.image)


def _damaged(file: Path, reason: str) -> str:
    return f"miniature: {file} is damaged ({reason}); git checkout data/miniature brings it back"


_TRIES = 1000
_STRONGEST_GAMMA = 1.5


def cut_crops(
    name: str, photograph: NDArray[np.uint8], count: int, spec: WorldSpec, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Cut squares of random size and place, each resized to `spec.crop_px`.

    Args:
        name: Of the photograph, for errors.
        photograph: ``(H, W, 3)`` uint8, RGB.
        count: How many; they may overlap.
        spec: Sizes and the least contrast.
        rng: Where all chance comes from.

    Returns:
        ``(count, crop, crop, 3)`` uint8, RGB.

    Raises:
        DataError: If the photograph is too small, or has almost nowhere as much contrast.
    """
    image = Image.fromarray(photograph)
    short = min(image.size)
    smallest, largest = spec.box_px[0], min(spec.box_px[1], short)
    if short < smallest:
        raise DataError(
            f"miniature: photograph {name} has {image.width} x {image.height} pixels, too few for squares of {smallest}; "
            "give a larger one, or a smaller box_px"
        )
    crops: list[NDArray[np.uint8]] = []
    for _ in range(_TRIES + 10 * count):
        # Each size is as likely as its double, so that close views are as frequent as wide ones.
        side = round(smallest * (largest / smallest) ** rng.random())
        left, top = (int(rng.integers(0, length - side, endpoint=True)) for length in image.size)
        box = (left, top, left + side, top + side)
        crop = np.array(image.resize((spec.crop_px, spec.crop_px), Image.Resampling.BICUBIC, box=box))
        if crop.mean(axis=2).std() >= spec.least_contrast:
            crops.append(crop)
            if len(crops) == count:
                return np.stack(crops)
    raise DataError(
        f"miniature: in photograph {name}, only {len(crops)} of {count} squares have a contrast of {spec.least_contrast}; "
        "give one with more in it, or a smaller least_contrast"
    )


def vary(crops: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make few photographs go further: each crop is turned, mirrored, given other colours and another exposure at random.

    They stay real: each pixel is one of the photograph, its channels in another order and on another tone curve.

    Args:
        crops: ``(N, crop, crop, 3)`` uint8.
        rng: Where all chance comes from.
    """
    levels = np.arange(256) / 255
    varied = np.empty_like(crops)
    for at, crop in enumerate(crops):
        turned = np.rot90(crop, int(rng.integers(4)))
        mirrored = turned[:, ::-1] if rng.random() < 0.5 else turned
        curve = 255 * levels ** (_STRONGEST_GAMMA ** rng.uniform(-1, 1))
        varied[at] = np.round(curve).astype(np.uint8)[mirrored[..., rng.permutation(3)]]
    return varied
