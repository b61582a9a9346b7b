"""From files to crops: plain Pillow, this project's decode and preprocess, a warm cache; images/s of one process.

A mix of JPEG, PNG and WebP files of 0.3, 1 and 4 megapixels, made on the spot, in a warm file cache. All ways must give the
same pixels. Needs torch, numpy and Pillow only.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images import CropCache, PreprocessSpec, decode, identity, preprocess
from mirror_pl.sources.source import ImageSource
from paired import Row, all_seconds_of, copy_ceiling, cores, quick, timed

SIZES = {"0.3": (640, 480), "1": (1152, 896), "4": (2304, 1728)}
FORMATS = {".jpg": {"quality": 90}, ".png": {}, ".webp": {"quality": 90}}
SPEC = PreprocessSpec()

PLAIN = "plain Pillow"


def make_files(folder: Path, count: int) -> list[Path]:
    """Make `count` files of each size and format."""
    rng = np.random.default_rng(0)
    paths = []
    for size, (width, height) in SIZES.items():
        for suffix, options in FORMATS.items():
            for number in range(count):
                paths.append(folder / f"{size}_{number}{suffix}")
                smooth_noise(rng, width, height).save(paths[-1], **options)
    return paths


def smooth_noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of all scales, the finer the weaker, which compresses about as photographs do."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 12):
        cells = rng.integers(0, 256, (2**octave, 2**octave, 3), np.uint8)
        total += (
            np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC), np.float32) / 1.6**octave
        )
    return Image.fromarray(np.uint8(255 * (total - total.min()) / (total.max() - total.min())))


def plain_pillow(path: Path) -> NDArray[np.uint8]:
    """The recipe as one would write it down."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    if short > 512:
        image = image.resize((round(image.width * 512 / short), round(image.height * 512 / short)), Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    image = image.crop((left, top, left + 224, top + 224))
    if path.suffix in (".png", ".bmp"):
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=96)
        image = Image.open(buffer).convert("RGB")
    return np.array(image)


def only_decoded(path: Path) -> None:
    """The least of what a way that reads the file must do."""
    Image.open(path).convert("RGB")


def decoding_bound(paths: list[Path]) -> dict[str, Any]:
    """`possible` and `bound` of images/s: files decoded by plain Pillow in one process, times the cores."""
    device = torch.device("cpu")
    (seconds,) = all_seconds_of({"": lambda: [only_decoded(path) for path in paths[:32]]}, 3, device).values()
    rate = len(paths[:32]) / statistics.median(seconds) * cores()
    return {"possible": rate, "bound": f"plain Pillow that only decodes, {cores()} processes: {rate:,.0f} images/s"}


def ours(path: Path) -> NDArray[np.uint8]:
    return preprocess(decode(path).image, path.suffix, SPEC)


def _key(path: Path) -> bytes:
    key = identity(ImageSource(path), path.suffix)
    assert key is not None
    return key


@quick(files=1, least_s=0)
def rows(files: int = 2, repeats: int = 5, least_s: float = 1) -> Iterator[Row]:
    """Images/s over `files` files of each size and format."""
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        paths = make_files(Path(name), files)
        time.sleep(2.5)  # a file that has just changed is not cached
        writer = CropCache(Path(name) / "cache", SPEC, 10**9)
        for path in paths:
            writer.store(_key(path), ours(path))
        cache = CropCache(Path(name) / "cache", SPEC, 10**9)

        def cached(path: Path) -> NDArray[np.uint8]:
            crop = cache.find(_key(path))
            assert crop is not None
            return crop

        ways: dict[str, Callable[[Path], object]] = {PLAIN: plain_pillow, "decode and preprocess": ours}
        kept: dict[str, Callable[[Path], object]] = {"crops from the warm cache": cached}
        for path in paths:
            first, *others = [way(path) for way in (ways | kept).values()]
            assert all(np.array_equal(first, other) for other in others), path

        def all_of(way: Callable[[Path], object]) -> None:
            for path in paths:
                way(path)

        given = {"base": PLAIN, "part": f"{', '.join(SIZES)} megapixels in {', '.join(FORMATS)}, one process"}
        rate = decoding_bound(paths)["possible"] / cores()
        of_files = {"possible": rate, "bound": f"plain Pillow that only decodes: {rate:.1f} images/s"}
        found = list(
            timed(
                {key: partial(all_of, way) for key, way in ways.items()},
                repeats,
                device,
                "images/s",
                len(paths),
                **given,
                **of_files,
            )
        )
        rate = copy_ceiling(device) / (2 * cached(paths[0]).nbytes)
        of_crops = {"possible": rate, "bound": f"crops copied in memory: {rate:,.0f} images/s"}
        yield from found
        yield from timed(
            {key: partial(all_of, way) for key, way in kept.items()},
            repeats,
            device,
            "images/s",
            len(paths),
            least_s=least_s,
            **given,
            **of_crops,
        )
