"""The miniature world: real crops of photographs, and the same crops rebuilt by decoders, as a dataset on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.errors import OutputError
from mirror_pl.files import whole_folder
from mirror_pl.miniature.decoders import DECODERS
from mirror_pl.miniature.photographs import SPLITS, Split, cut_crops, read_photographs, vary
from mirror_pl.miniature.rebuilding import rebuild, train_rebuilder
from mirror_pl.miniature.spec import WorldSpec

TEST_REALS = "reals"
"""Folder of the test set's reals, beside a folder of fakes for each decoder."""
_REPORT_EVERY_S = 10.0


def build_world(
    folder: Path, photographs: Path, spec: WorldSpec, seed: int = 0, report: Callable[[str], None] = lambda _: None
) -> None:
    """Make the miniature world.

    Below `folder`, with ``NAME`` made of a photograph and a number, the same for a real and all that was made from it::

        {train,val}/0_real/NAME.jpg
        {train,val}/1_fake/DECODER/NAME.jpg    each real rebuilt by one of the decoders that are not held out, in turn
        test/reals/NAME.jpg
        test/DECODER/NAME.jpg                  each real rebuilt by each decoder, the one held out included

    The decoders are trained on the crops of the training split only. Every image, real or fake, is written as a JPEG once,
    from pixels, at the same quality. On one machine the same photographs, seed and spec give the same bytes.

    Args:
        folder: Made; it must not exist.
        photographs: Folder of the photographs; see `read_photographs`.
        spec: How.
        seed: Of crops, decoders and their training; 0 or more.
        report: Told of progress, a line at a time.

    Raises:
        OutputError: If `folder` exists or cannot be written.
        DataError: If a photograph is missing, damaged, too small or too plain.
    """
    if folder.exists():
        raise OutputError(
            f"{folder} exists already; delete it (rm -r {folder}) or give another place for the miniature world"
        )
    crops = {split: _cut(photographs, split, spec, seed) for split in SPLITS}
    with whole_folder(folder) as temporary:
        for split in SPLITS:
            _write(temporary / split / (TEST_REALS if split == "test" else "0_real"), crops[split], spec)
        with _torch_settings(seed, spec.threads):
            clock = _Clock(report, len(DECODERS) * spec.steps)
            for position, name in enumerate(DECODERS):
                rebuilder = DECODERS[name]()
                train_rebuilder(rebuilder, crops["train"].pixels, spec, clock.of(f"decoder {name}", position * spec.steps))
                for split in SPLITS:
                    wanted = _rebuilt_by(name, split, crops[split], spec)
                    if len(wanted.names):
                        fakes = _Crops(wanted.names, rebuild(rebuilder, wanted.pixels))
                        _write(temporary / split / (name if split == "test" else f"1_fake/{name}"), fakes, spec)
    report(f"miniature: {folder} is complete, with {len(crops['train'].names)} reals to train on")


@dataclass(frozen=True)
class _Crops:
    """Crops with names: ``(N, crop, crop, 3)`` uint8."""

    names: list[str]
    pixels: NDArray[np.uint8]


def _cut(photographs: Path, split: Split, spec: WorldSpec, seed: int) -> _Crops:
    """Cut the crops of a split; those of a photograph depend on the seed and its name, not on what else there is."""
    count = spec.crops(split)
    names, parts = [], []
    for name, photograph in read_photographs(photographs, split).items():
        names += [f"{name}_{number:03d}" for number in range(count)]
        rng = np.random.default_rng([seed, *name.encode()])
        cut = cut_crops(name, photograph, count, spec, rng)
        parts.append(vary(cut, rng) if split == "train" else cut)
    return _Crops(names, np.concatenate(parts))


def _rebuilt_by(decoder: str, split: Split, crops: _Crops, spec: WorldSpec) -> _Crops:
    """Choose what a decoder rebuilds: of the test split everything, of the others its turns; nothing if it is held out."""
    if split == "test":
        return crops
    if decoder == spec.held_out:
        return _Crops([], crops.pixels[:0])
    first, step = spec.seen.index(decoder), len(spec.seen)
    return _Crops(crops.names[first::step], crops.pixels[first::step])


def _write(folder: Path, crops: _Crops, spec: WorldSpec) -> None:
    folder.mkdir(parents=True)
    for name, pixels in zip(crops.names, crops.pixels, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=spec.jpeg_quality, subsampling="4:2:0")


@contextmanager
def _torch_settings(seed: int, threads: int) -> Iterator[None]:
    """Draw from a seed and compute with so many threads, which decide how sums are rounded; afterwards all is as before."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class _Clock:
    """Says how far the training of all decoders is, and how long it will yet take, every few seconds."""

    def __init__(self, report: Callable[[str], None], steps: int) -> None:
        self.report = report
        self.steps = steps
        self.began = self.last = time.monotonic()

    def of(self, what: str, before: int) -> Callable[[int], None]:
        """Return what is to be called after each step of a part that `before` steps of other parts precede."""

        def after_step(step: int) -> None:
            now = time.monotonic()
            done = before + step
            if now - self.last >= _REPORT_EVERY_S or done == self.steps:
                self.last = now
                left = (now - self.began) / done * (self.steps - done)
                self.report(f"miniature: {what}, step {done} of {self.steps}, {left:.0f} s left")

        return after_step
