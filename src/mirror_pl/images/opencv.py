"""What OpenCV makes of a picture, without OpenCV: detectors whose authors read files with it want its pixels to the bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def opencv_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as ``cv2.imread`` with its default flags gives it, in RGB.

    It is turned by its EXIF orientation; transparency is dropped; of 16 bits the upper 8 are taken; CMYK, as JPEG files hold
    it, is multiplied out in integers.
    """
    # Pillow's own would drop the orientation of a conversion's result.
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        upper = (np.asarray(turned).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if turned.mode == "CMYK":
        inverted = 255 - np.asarray(turned).astype(np.int32)
        ink, key = inverted[..., :3], inverted[..., 3:]
        return Image.fromarray((key - ((255 - ink) * key >> 8)).astype(np.uint8))
    return turned if turned.mode == "RGB" else turned.convert("RGB")


def opencv_resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGB image as ``cv2.resize`` does by default: bilinear, without antialias, in fixed-point integers.

    Args:
        image: Of any size.
        size: Width and height.
    """
    pixels = np.asarray(image).astype(np.int64)
    rows, below, down = _taps(pixels.shape[0], size[1])
    columns, right, across = _taps(pixels.shape[1], size[0], clamped=True)
    # Along x first, of the rows that are needed; the weights are 11 bits each, and are taken out again along y.
    above, under = (
        across[0][:, None] * line[:, columns] + across[1][:, None] * line[:, right] >> 4
        for line in (pixels[rows], pixels[below])
    )
    mixed = (down[0][:, None, None] * above >> 16) + (down[1][:, None, None] * under >> 16)
    return Image.fromarray((mixed + 2 >> 2).clip(0, 255).astype(np.uint8))


def _taps(source: int, target: int, clamped: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each of `target` places, the two of `source` that it lies between, and their weights ``(2, target)``.

    Args:
        source: Pixels along a side.
        target: Pixels wanted.
        clamped: Whether a place outside has the weight 0, as along x; along y its weight stays and both rows are the same.
    """
    places = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(places).astype(np.int64)
    part = places - first.astype(np.float32)
    if clamped:
        outside = (first < 0) | (first >= source - 1)
        part = np.where(outside, np.float32(0), part)
        first = first.clip(0, source - 1)
    weights = np.rint(np.stack([np.float32(1) - part, part]) * np.float32(2048)).astype(np.int64)
    return first.clip(0, source - 1), (first + 1).clip(0, source - 1), weights
