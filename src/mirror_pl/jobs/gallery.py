"""The gallery job: the surest, the most mistaken and the least sure images of evaluations, on one page, with maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.console import Console

from mirror_pl.config.build_detector import build_detector, build_policy
from mirror_pl.config.command import compose
from mirror_pl.config.schema import EvalSettings, GallerySettings, check_settings, read_settings
from mirror_pl.detectors import CropPolicy, MirrorDetector
from mirror_pl.detectors.maps import token_maps
from mirror_pl.errors import ConfigError, IncompleteRunError, name_list
from mirror_pl.explanation import by_scale, map_layers
from mirror_pl.files import whole_folder, write_text
from mirror_pl.images import UndecodableImageError
from mirror_pl.images.pictures import prepare
from mirror_pl.jobs.dependencies import weights_of
from mirror_pl.jobs.maps import NOTES, check_maps
from mirror_pl.jobs.run_images import RunPictures
from mirror_pl.labels import LABEL_NAMES
from mirror_pl.reports import print_plain
from mirror_pl.reports.chosen_images import ChosenImage, choose
from mirror_pl.reports.gallery_page import Card, Part, Section, Tile, embedded, picture_page
from mirror_pl.reports.gathered_runs import GatheredRun, sort_runs
from mirror_pl.reports.map_overlay import MAPS, number, overlay, own_range
from mirror_pl.texts import printable

SIDE_PX: Final = 288
"""Longer side of a picture in the page: sharp on most screens at the size that it is shown at."""

MAX_TOTAL_BYTES: Final = 12_000_000
"""Of all pictures in a page, which is to open at once; the others are named only."""

_READING: Final = (
    ("Sure", "Far from logit 0, at which the decision changes, either way. An image is decided fake above it."),
    ("p_fake", "The detector's score, the sigmoid of the logit. It need not be a probability."),
)
_READING_MAPS: Final = (
    (
        "Colours",
        "From a picture's least patch, dark violet, to its largest, yellow: each map has a scale of its own below it.",
    ),
    ("Outline", "What the detector saw. Black outside of a picture is padding."),
)


def run(cfg: DictConfig) -> None:
    """Make the gallery that `cfg` asks for.

    Raises:
        MirrorError: Before anything is written, if settings, runs or weights are not usable; after the page was written, an
            `IncompleteRunError`, if a run that was given is not complete.
    """
    settings = read_settings(cfg, GallerySettings)
    console = Console()
    output = Path(settings.output_dir)
    if output.exists():
        raise ConfigError(f"output_dir: {output} exists already; give another output_dir=FOLDER")
    complete, incomplete = sort_runs([Path(path) for path in settings.runs])
    room = _Room(MAX_TOTAL_BYTES)
    parts = [_part(run, settings, room) for run in complete]
    reading = (*_READING, *_READING_MAPS, *NOTES) if settings.maps else _READING
    lead = "Images that a detector was surest of, rightly and wrongly, and those that it was least sure of."
    page = picture_page("Gallery", lead, parts, reading, layout="maps" if settings.maps else "small")
    with whole_folder(output) as folder:
        write_text(folder / "gallery.html", page)
    print_plain(f"Gallery: {output / 'gallery.html'}", console)
    if room.left_out:
        print_plain(
            f"  {room.left_out} pictures were left out, the page is large; count={settings.count} asks for many", console
        )
    if incomplete:
        raise IncompleteRunError(
            f"{len(incomplete)} of {len(complete) + len(incomplete)} runs are not complete, and not shown: "
            f"{name_list(str(run.folder) for run in incomplete)}. The gallery is in {output}"
        )


class _Room:
    """What is left of a page's size."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self.left_out = 0

    def tile(self, picture: Image.Image, caption: str, ends: tuple[str, str] | tuple[()] = ()) -> Tile:
        """Return a tile with the picture in it, or one that says that there was no room for it."""
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=82, optimize=True)
        content = buffer.getvalue()
        if len(content) > self._left:
            self.left_out += 1
            return Tile("", "left out, the page is large")
        self._left -= len(content)
        return Tile(embedded(content), caption, picture.size, ends)


def _part(run: GatheredRun, settings: GallerySettings, room: _Room) -> Part:
    table = run.read()
    assert run.facts is not None
    maps = _Maps.of(run) if settings.maps else None
    pictures = RunPictures(Path(run.facts["data"]["root"]))
    sections = [
        Section(
            group.title,
            f"{len(group.images):,} of {group.of:,} {'image' if group.of == 1 else 'images'}."
            if group.images
            else "There is none.",
            tuple(_card(image, pictures, maps, settings, room) for image in group.images),
        )
        for group in choose(table, settings.count)
    ]
    facts = [
        f"Detector {run.checkpoint}, SHA-256 {run.facts['checkpoint']['sha256'][:12]}, {run.facts['precision']}.",
        f"Run {printable(run.folder.resolve())}. Data {run.data_root}.",
    ]
    if run.facts.get("miniature"):
        facts.append("This is the miniature: a small detector of small decoders, and none for the real world.")
    if maps is not None and maps.note:
        facts.append(maps.note)
    return Part(run.title, tuple(facts), tuple(sections))


def _card(image: ChosenImage, pictures: RunPictures, maps: _Maps | None, settings: GallerySettings, room: _Room) -> Card:
    decided = f"decided {LABEL_NAMES[int(image.logit > 0)]}"
    facts = (f"{LABEL_NAMES[image.label]}, {decided}", f"p_fake {image.p_fake:.3g}, logit {image.logit:.3g}", image.subset)
    if not settings.images:
        return Card(image.path, facts, ())
    try:
        picture = pictures.open(image.path)
    except UndecodableImageError as error:
        return Card(image.path, facts, (Tile("", printable(error)[:80]),))
    caption = f"{LABEL_NAMES[image.label]} image {decided}"
    shown = picture.copy()
    shown.thumbnail((SIDE_PX, SIDE_PX))
    if maps is None:
        return Card(image.path, facts, (room.tile(shown, caption),))
    enlarged = SIDE_PX // max(shown.size)  # as the maps on a small one are
    if enlarged > 1:
        shown = shown.resize((shown.width * enlarged, shown.height * enlarged), Image.Resampling.NEAREST)
    return Card(image.path, facts, (room.tile(shown, "Picture"), *maps.tiles(picture, image.path, room)))


class _Maps:
    """Makes the maps of a run's images with the run's detector."""

    def __init__(self, detector: MirrorDetector, policy: CropPolicy, note: str) -> None:
        self.detector = detector
        self.policy = policy
        self.note = note

    @classmethod
    def of(cls, run: GatheredRun) -> _Maps:
        """Load the detector of a run.

        Raises:
            ConfigError: If the weights are others by now, the detector has no memory bank, or the run is too old to tell.
            CheckpointError: If weights cannot be read.
        """
        # Maps are of what the detector saw, whatever is made of its scores.
        settings = _settings_of(run).model_copy(
            update={"compile": False, "quantise": None, "calibration": None, "abstain": None}
        )
        _check_weights(run, settings)
        detector = check_maps(build_detector(settings)[0], "maps")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        assert run.facts is not None
        disturbed = run.facts["config"].get("perturb")
        note = "Maps are of the files as they are, without the run's perturbation." if disturbed else ""
        return cls(detector.to(device), build_policy(settings), note)

    def tiles(self, picture: Image.Image, path: str, room: _Room) -> Iterator[Tile]:
        """Yield the maps of an image; with crops of several sizes of it, those of each."""
        prepared = prepare(picture, self.detector.spec, self.policy.crops, suffix=Path(path).suffix)
        scales = by_scale(token_maps(self.detector, prepared))
        for (width, height), group in scales.items():
            for kind, words in MAPS.items():
                layers = map_layers(group, kind, picture.size)
                colours = own_range(layers)
                drawn = overlay(picture, layers, colours, SIDE_PX)
                at = f", at {width} x {height}" if len(scales) > 1 else ""
                ends = (number(colours.low, colours), f"{number(colours.high, colours)} {words.unit}")
                yield room.tile(drawn, f"{words.title}{at}", ends)


def _settings_of(run: GatheredRun) -> EvalSettings:
    """Return a run's settings; those that came later have the values that they have by default."""
    assert run.facts is not None
    recorded: Mapping[str, Any] | None = run.facts.get("config")
    if not isinstance(recorded, Mapping):
        raise ConfigError(f"maps: {run.folder / 'run.json'} has no settings, it is from an older version; use maps=false")
    default: Any = OmegaConf.to_container(compose("eval"), resolve=True)
    values = {name: recorded.get(name, default[name]) for name in EvalSettings.model_fields}
    settings = check_settings({**values, "trust": None}, EvalSettings)
    if settings.detector.target is not None:
        raise ConfigError("maps: the detector is of another package, whose code a run folder may not run; use maps=false")
    return settings


def _check_weights(run: GatheredRun, settings: EvalSettings) -> None:
    assert run.facts is not None
    for key, file in weights_of(settings).items():
        before = (run.facts.get(key) or {}).get("sha256")
        if before != file.sha256:
            raise ConfigError(
                f"maps: {key} is not that of {run.folder}: sha256 {before} then, {file.sha256} now, in {file.path}. Put the "
                "same file there, or use maps=false"
            )
