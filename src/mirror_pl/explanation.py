"""A prediction with its picture and maps, as a notebook shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from PIL import Image

from mirror_pl.detectors import CropPolicy, Detector, MirrorDetector, Prediction
from mirror_pl.detectors.maps import TokenMaps
from mirror_pl.images.pictures import Picture, as_data_url, as_image
from mirror_pl.reports.map_overlay import MAPS, MapLayer, draw_map

MAP_PX = 256
"""Longer side of a map, at most: three of them stand side by side."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a detector says of a picture, and where it looked.

    Attributes:
        prediction: Its verdict.
        maps: Pictures of what the memory bank makes of each patch, by title; none where a detector has no bank, or the
            picture cannot be read.
    """

    prediction: Prediction
    maps: dict[str, Image.Image] = field(repr=False)

    def _repr_html_(self) -> str:
        shown = "".join(
            f'<figure style="margin:0"><img src="{as_data_url(drawn)}" alt="{escape(title)}">'
            f"<figcaption>{escape(title)}</figcaption></figure>"
            for title, drawn in self.maps.items()
        )
        return f'{self.prediction._repr_html_()}<div style="display:flex;flex-wrap:wrap;gap:1em">{shown}</div>'


def explain(detector: Detector, picture: Picture, *, policy: CropPolicy | None = None) -> Explanation:
    """Score a picture, and draw the maps of what the memory bank makes of it; a notebook shows both.

    A map is evidence, and no proof: docs/maps.md.

    Args:
        detector: In eval mode.
        picture: As `Detector.predict` takes it.
        policy: Which crops are scored, and how they become one score; None is the detector's protocol.

    Raises:
        TypeError, ValueError, ConfigError: As `Detector.predict`.

    Example::

        detector = load_detector("miniature")
        explain(detector, "picture.jpg")
    """
    if isinstance(picture, list | tuple):
        raise TypeError(f"explain takes one picture, got a {type(picture).__name__} of {len(picture)}; call it for each")
    prediction = detector.predict(picture, policy=policy)
    if prediction.size is None or not isinstance(detector, MirrorDetector) or detector.config.memory_bank is None:
        return Explanation(prediction, {})
    maps = detector.maps(picture, policy=policy or detector.protocol)
    return Explanation(prediction, dict(drawn_maps(as_image(picture), maps, MAP_PX)))


def drawn_maps(picture: Image.Image, maps: Sequence[TokenMaps], side_px: int) -> Iterator[tuple[str, Image.Image]]:
    """Draw maps on their picture, by title: one of each kind, and of each size that the picture was brought to."""
    groups = by_scale(maps)
    for key, kind in MAPS.items():
        for (width, height), group in groups.items():
            title = kind.title + (f", at {width} x {height} px" if len(groups) > 1 else "")
            yield title, draw_map(picture, map_layers(group, key, picture.size), kind, side_px=side_px)


def map_layers(maps: Sequence[TokenMaps], kind: str, size: tuple[int, int]) -> list[MapLayer]:
    """Return maps of a kind, of those in `MAPS`, as layers on a picture of that size."""
    return [MapLayer(getattr(one, kind), one.crop.box(size)) for one in maps]


def by_scale(maps: Sequence[TokenMaps]) -> dict[tuple[int, int], list[TokenMaps]]:
    """Group maps by the size that the picture was brought to: those of one size are drawn together."""
    groups: dict[tuple[int, int], list[TokenMaps]] = {}
    for one in maps:
        groups.setdefault(one.crop.resized, []).append(one)
    return groups
