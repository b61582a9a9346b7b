"""From the bytes of a picture to all that the page shows of it. Knows no browser; nothing is kept, and nothing written."""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from mirror_pl.app_page.recipe import recipe
from mirror_pl.detectors import CropPolicy, Detector, MirrorDetector, Prediction
from mirror_pl.detectors.maps import token_maps
from mirror_pl.errors import LostProcessError
from mirror_pl.images import decode
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.prediction import Item, Limits, score, workers_of
from mirror_pl.reports.map_overlay import MAPS, MapLayer, draw_map
from mirror_pl.sources.folder import suffix_of

SHOWN_PX: Final = 768
"""Longer side of the picture that is shown, at most."""
MAP_PX: Final = 384
"""Likewise of a map: three of them stand side by side."""


@dataclass(frozen=True)
class Costs:
    """What a picture may cost, and how it is scored.

    Attributes:
        max_megapixels: A file that declares more is refused before it is decoded.
        batch_size: Crops scored together, at most.
        precision: Of the backbone, by Lightning's names.
        start: How decoding processes are started, see `prediction.decoding`: a server's threads may hold locks.
    """

    max_megapixels: float = 100.0
    batch_size: int = 16
    precision: str = "32-true"
    start: str | None = "forkserver" if sys.platform != "win32" else None


@dataclass(frozen=True)
class MapShown:
    """A map drawn over its picture: what it shows, and a PNG."""

    title: str
    png: bytes


@dataclass(frozen=True)
class Answer:
    """What is shown of a picture.

    Attributes:
        name: Of its file.
        prediction: The verdict, or the reason why there is none; the same as `Detector.predict` on the file gives.
        recipe: What was done to it, in sentences; empty without a verdict.
        jpeg: The picture, made small; None where there is none.
        maps: Of what the bank makes of it.
        note: Why there are no maps; else empty.
    """

    name: str
    prediction: Prediction
    recipe: tuple[str, ...] = ()
    jpeg: bytes | None = None
    maps: tuple[MapShown, ...] = ()
    note: str = ""


def decision(prediction: Prediction) -> str:
    """Return "fake", "real" or "unsure", and nothing without a score."""
    return prediction.verdict or ""


def answer(
    detector: Detector, content: bytes, name: str, policy: CropPolicy | None = None, costs: Costs | None = None
) -> Answer:
    """Score a picture, and gather what explains its score.

    Args:
        detector: In eval mode.
        content: Of the file, as it is: the recipe's alignment goes by the format that the name tells.
        name: Of the file.
        policy: Which crops are scored, and how they become one score; None is the detector's published protocol.
        costs: What it may cost; None is the default.
    """
    policy, costs = policy or detector.protocol, costs or Costs()
    ((prepared, prediction),) = _scored(detector, [(name, content)], policy, costs)
    if prepared.size is None or prepared.pixels is None:
        return Answer(name, prediction)
    image = decode(content).image
    maps: tuple[MapShown, ...] = ()
    note = "This detector has no memory bank, and so no maps."
    if isinstance(detector, MirrorDetector) and detector.config.memory_bank is not None:
        maps, note = tuple(_drawn(detector, image, prepared, costs)), ""
    steps = recipe(prepared.size, prepared.plan, detector.spec, policy, name)
    return Answer(name, prediction, tuple(steps), _jpeg(image), maps, note)


def predictions_of(
    detector: Detector, files: Sequence[tuple[str, bytes]], policy: CropPolicy, costs: Costs
) -> list[Prediction]:
    """Score files, given by name and content, in one batch, and return one prediction each."""
    return [prediction for _, prediction in _scored(detector, files, policy, costs)]


def _scored(
    detector: Detector, files: Sequence[tuple[str, bytes]], policy: CropPolicy, costs: Costs
) -> list[tuple[PreparedPicture, Prediction]]:
    """Score files by the engine of `mirror_pl.predict`: one that hangs or crashes its decoder costs itself a score only."""
    items = [Item(content, name, suffix_of(name)) for name, content in files]
    found: list[tuple[PreparedPicture, Prediction]] = []
    predictions = score(
        items,
        detector,
        policy=policy,
        batch_size=costs.batch_size,
        num_workers=min(len(items), workers_of(None)),
        precision=costs.precision,
        limits=Limits(costs.max_megapixels),
        start=costs.start,
        on_batch=lambda batch: found.extend((prepared, prediction) for _, prepared, prediction in batch),
    )
    try:
        deque(predictions, maxlen=0)
    except LostProcessError:  # the page goes on
        reason = "the system ended the process that decoded it, as it does when memory runs out"
        lost = PreparedPicture(None, status="undecodable", reason=reason), Prediction(None, None, "undecodable", reason)
        found += [lost] * (len(items) - len(found))
    return found


def _drawn(detector: MirrorDetector, image: Image.Image, prepared: PreparedPicture, costs: Costs) -> Iterator[MapShown]:
    found = token_maps(detector, prepared, batch_size=costs.batch_size, precision=costs.precision)
    scales = list(dict.fromkeys(crop.resized for crop in prepared.plan))
    for key, kind in MAPS.items():
        for resized in scales:  # maps of other sizes of the picture belong into pictures of their own
            layers = [
                MapLayer(getattr(maps, key), maps.crop.box(image.size)) for maps in found if maps.crop.resized == resized
            ]
            title = kind.title + (f", at {resized[0]} x {resized[1]} px" if len(scales) > 1 else "")
            buffer = io.BytesIO()
            draw_map(image, layers, kind, side_px=MAP_PX).save(buffer, "PNG")
            yield MapShown(title, buffer.getvalue())


def _jpeg(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((SHOWN_PX, SHOWN_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
