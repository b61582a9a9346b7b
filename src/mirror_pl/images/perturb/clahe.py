"""Contrast limited adaptive histogram equalisation (CLAHE): each part of a picture gets the whole range of luminance."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.perturb.pixels import to_image

TILES: Final = 8
"""Across and down; fewer where the picture has fewer pixels."""


def clahe(image: Image.Image, limit: float, _: np.random.Generator) -> Image.Image:
    """Equalise the luminance by tiles; a pixel goes by the four tiles around it, weighted by how near their centres are.

    Args:
        image: In mode RGB.
        limit: What a bin of a tile's histogram may hold, in multiples of its mean; what is above is spread over all bins.

    Returns:
        The image, each of whose channels was raised by as much as the luminance.
    """
    pixels = np.asarray(image, np.float32)
    red, green, blue = np.moveaxis(np.asarray(image, np.intp), -1, 0)
    before = (299 * red + 587 * green + 114 * blue + 500) // 1000  # whole, since it is a place in a table
    down, across = (_Tiling(side) for side in before.shape)
    tables = _tables(before, down, across, limit)
    after = np.zeros(before.shape, np.float32)
    for rows, row_weights in ((down.first, 1 - down.weights), (down.second, down.weights)):
        for columns, column_weights in ((across.first, 1 - across.weights), (across.second, across.weights)):
            entries = before + 256 * (rows * across.count)[:, None]
            entries += 256 * columns
            mapped = tables.take(entries)
            mapped *= row_weights[:, None]
            mapped *= column_weights
            after += mapped
    return to_image(pixels + (after - before.astype(np.float32))[..., None])


class _Tiling:
    """One side of a picture in tiles.

    Attributes:
        count: How many.
        own: ``(side,)``, the tile that a pixel is in.
        first: ``(side,)``, the tile whose centre comes before it.
        second: ``(side,)``, the next one. At the ends both are the same.
        weights: ``(side,)`` float32 in [0, 1], how near it is to the centre of the second.
    """

    def __init__(self, side: int) -> None:
        self.count = min(TILES, side)
        edges = np.arange(self.count + 1) * side // self.count
        self.own = np.repeat(np.arange(self.count), np.diff(edges))
        centres = (edges[:-1] + edges[1:] - 1) / 2
        places = np.arange(side)
        self.first = np.clip(np.searchsorted(centres, places, "right") - 1, 0, self.count - 1)
        self.second = np.minimum(self.first + 1, self.count - 1)
        apart = np.maximum(centres[self.second] - centres[self.first], 1)
        self.weights = np.clip((places - centres[self.first]) / apart, 0, 1).astype(np.float32)


def _tables(values: NDArray[np.intp], down: _Tiling, across: _Tiling, limit: float) -> NDArray[np.float32]:
    """Return the new luminance for each tile and luminance, as one row."""
    tiles = down.count * across.count
    bins = values + 256 * (down.own * across.count)[:, None] + 256 * across.own
    histograms = np.bincount(bins.ravel(), minlength=256 * tiles).reshape(tiles, 256).astype(float)
    sizes = histograms.sum(1, keepdims=True)
    kept = np.minimum(histograms, np.maximum(limit * sizes / 256, 1))
    kept += (sizes - kept.sum(1, keepdims=True)) / 256
    return (np.cumsum(kept, 1) * (255 / sizes)).astype(np.float32).ravel()
