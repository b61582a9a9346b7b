"""Maps of many pictures as PNG files in a folder, with pages that show them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from mirror_pl.detectors import Detector, MirrorDetector, Prediction
from mirror_pl.detectors.maps import TokenMaps, token_maps
from mirror_pl.errors import ConfigError, OutputError
from mirror_pl.explanation import by_scale, map_layers
from mirror_pl.files import whole_file, write_text
from mirror_pl.images import UndecodableImageError, decode
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.reports.gallery_page import Card, Part, Section, Tile, beside, picture_page
from mirror_pl.reports.map_overlay import MAPS, draw_map
from mirror_pl.sources.source import ImageSource
from mirror_pl.texts import printable, storable

if TYPE_CHECKING:
    from mirror_pl.prediction.engine import Batch

PICTURES_A_PAGE: Final = 100
"""So that a page opens at once, however many pictures there are."""

LONGEST_NAME: Final = 160
"""Bytes of a picture's name that are kept, from its end: with what is added, any file system takes it."""

NOTES: Final = (
    ("Residual norm", "Length of what is left of a patch's features after the bank of real prototypes has rebuilt them."),
    ("Retrieval entropy", "How many prototypes a patch needs: 0 nats is one. Mean over the bank's heads."),
    ("Largest retrieval weight", "The share that the most used prototype has; 1 is all of it. Mean over the bank's heads."),
    (
        "A patch",
        "Its features have seen the whole crop, and the decision rests on means over all of them: a map is no proof.",
    ),
)
"""What the maps are, for the end of a page."""


def check_maps(detector: Detector, setting: str) -> MirrorDetector:
    """Return a detector that maps can be made with.

    Raises:
        ConfigError: If it has no memory bank, naming the setting that asked for maps.
    """
    if not isinstance(detector, MirrorDetector) or detector.config.memory_bank is None:
        raise ConfigError(f"{setting}: this detector has no memory bank to make maps with; leave {setting} out")
    return detector


def check_map_folder(directory: Path, setting: str) -> None:
    """See that a folder may be filled with maps.

    Raises:
        ConfigError: If it holds something.
        OutputError: If it cannot be read.
    """
    try:
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"{setting}: {directory} holds something already; give an empty or a new folder")
    except OSError as error:
        raise OutputError(f"{setting}: {directory} cannot be written: {error.strerror}; give another place") from error


class MapFolder:
    """A folder of maps: for each picture ``NAME.residual_norm.png`` and so on, and pages that show them, in their order.

    Used in a ``with`` block, at whose end, whatever it is, the last page is written.

    NAME is the picture's path with all but letters, digits, dots, dashes and underscores replaced; equal ones are numbered.
    With crops of several sizes of the picture, as of ``crops=multiscale``, the size is part of the name.

    Args:
        directory: Made; it must not hold anything.
        detector: In eval mode; its device is where maps are computed.
        precision: Of its backbone; see `token_maps`.
        setting: That asked for maps, for messages.

    Raises:
        ConfigError: If the detector has no memory bank, or the folder holds something.
        OutputError: If it cannot be made.
    """

    def __init__(self, directory: Path, detector: Detector, precision: str = "32-true", setting: str = "maps") -> None:
        self.directory = directory
        self.detector = check_maps(detector, setting)
        self.precision = precision
        check_map_folder(directory, setting)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{setting}: {directory} cannot be written: {error.strerror}; give another place") from error
        self._taken: dict[str, int] = {}
        self._cards: list[Card] = []
        self._page = 1

    def __enter__(self) -> MapFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._write_page(is_last=True)

    @property
    def index(self) -> Path:
        """The first page."""
        return self.directory / _page_name(1)

    def add(
        self, source: Path | ImageSource | bytes, name: str, prepared: PreparedPicture, prediction: Prediction | None = None
    ) -> list[Path]:
        """Write a picture's maps, and return their files; none if it cannot be read, which the page says.

        Args:
            source: Where the picture is; it is decoded once more, as a whole.
            name: Of the picture, such as its path; anything.
            prepared: Its crops.
            prediction: Shown on the page.

        Raises:
            OutputError: If a file cannot be written.
        """
        if len(self._cards) == PICTURES_A_PAGE:
            self._write_page(is_last=False)
        files: list[Path] = []
        tiles: list[Tile] = []
        try:
            if prepared.pixels is None:
                raise UndecodableImageError(prepared.reason)
            maps = token_maps(self.detector, prepared, precision=self.precision)
            picture = decode(source).image
            if picture.size != prepared.size:
                raise UndecodableImageError("the file has changed while it was looked at")
            for file, title, drawn in self._drawn(self._free_name(name), picture, maps):
                with whole_file(file) as temporary:
                    drawn.save(temporary, "PNG")
                files.append(file)
                tiles.append(Tile(beside(file.name), title, drawn.size))
        except UndecodableImageError as error:
            tiles.append(Tile("", printable(error)))
        self._cards.append(Card(printable(name), _facts(prediction), tuple(tiles)))
        return files

    def add_batch(self, batch: Batch) -> None:
        """Write the maps of pictures as they are scored; see `mirror_pl.prediction.score`."""
        for item, prepared, prediction in batch:
            self.add(item.source, item.path, prepared, prediction)

    def _drawn(self, name: str, picture: Image.Image, maps: Sequence[TokenMaps]) -> list[tuple[Path, str, Image.Image]]:
        found = []
        scales = by_scale(maps)
        for (width, height), group in scales.items():
            several = len(scales) > 1
            middle = f".{width}x{height}" if several else ""
            notes = [f"Of the picture at {width} x {height} pixels."] if several else []
            for kind, words in MAPS.items():
                drawn = draw_map(picture, map_layers(group, kind, picture.size), words, notes=notes)
                found.append((self.directory / f"{name}{middle}.{kind}.png", words.title, drawn))
        return found

    def _free_name(self, name: str) -> str:
        safe = safe_name(name)
        chosen, number = safe, self._taken.get(safe.casefold(), 1)
        while chosen.casefold() in self._taken:
            number += 1
            chosen = f"{safe}-{number}"
        self._taken[chosen.casefold()] = 1
        self._taken[safe.casefold()] = number  # where the search for the next one goes on
        return chosen

    def _write_page(self, *, is_last: bool) -> None:
        pages = [("Earlier pictures", _page_name(self._page - 1))] if self._page > 1 else []
        pages += [] if is_last else [("Further pictures", _page_name(self._page + 1))]
        first = (self._page - 1) * PICTURES_A_PAGE
        count = f"Pictures {first + 1:,} to {first + len(self._cards):,}." if self._cards else "No picture."
        if self._page == 1 and is_last:
            count = f"{len(self._cards):,} {'picture' if len(self._cards) == 1 else 'pictures'}."
        part = Part("", (), (Section("", "", tuple(self._cards)),))
        page = picture_page("Maps", f"What the memory bank makes of each patch. {count}", [part], NOTES, pages, "legends")
        write_text(self.directory / _page_name(self._page), page)
        self._cards.clear()
        self._page += 1


def safe_name(name: str) -> str:
    """Return a file name that stands for any text: no folder, no hidden file, nothing that a shell or a browser reads."""
    kept = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", storable(name)))
    return kept.encode()[-LONGEST_NAME:].decode(errors="ignore").lstrip("._-") or "picture"


def _page_name(number: int) -> str:
    return "index.html" if number == 1 else f"index-{number}.html"


def _facts(prediction: Prediction | None) -> tuple[str, ...]:
    if prediction is None:
        return ()
    if prediction.p_fake is None:
        return (f"no verdict: {prediction.status}",)
    verdict = f"{'unsure' if prediction.is_unsure else f'decided {prediction.verdict}'}, p_fake {prediction.p_fake:.3g}"
    return (verdict,) if prediction.status == "ok" else (verdict, f"{prediction.status}: {printable(prediction.reason)}")
