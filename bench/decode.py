"""From files to crops: plain Pillow, this project's decode and preprocess, a warm cache; images/s of one process.

A mix of JPEG, PNG and WebP files of 0.3, 1 and 4 megapixels, made on the spot, in a warm file cache. All ways must give the
same pixels. Needs torch, numpy and Pillow only.

    python bench/decode.py [--repeats 5] [--files 2]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.images import CropCache, PreprocessSpec, decode, identity, preprocess
from mirror_pl.sources.source import ImageSource

SIZES = {"0.3": (640, 480), "1": (1152, 896), "4": (2304, 1728)}
FORMATS = {".jpg": {"quality": 90}, ".png": {}, ".webp": {"quality": 90}}
SPEC = PreprocessSpec()

PLAIN, OURS, CACHED = "plain Pillow", "decode and preprocess", "crops from the warm cache"


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


def ours(path: Path) -> NDArray[np.uint8]:
    return preprocess(decode(path).image, path.suffix, SPEC)


def measure(repeats: int = 5, files: int = 2) -> dict[str, float]:
    """Return images/s of each way over `files` files of each size and format: medians of passes taken in turn."""
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

        ways: dict[str, Callable[[Path], NDArray[np.uint8]]] = {PLAIN: plain_pillow, OURS: ours, CACHED: cached}
        for path in paths:
            first, *others = [way(path) for way in ways.values()]
            assert all(np.array_equal(first, other) for other in others), path
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                passes = 20 if way == CACHED else 1  # one alone is too short to be timed
                start = time.perf_counter()
                for _ in range(passes):
                    for path in paths:
                        run(path)
                seconds[way].append((time.perf_counter() - start) / passes)
    return {way: len(paths) / statistics.median(values) for way, values in seconds.items()}


def _key(path: Path) -> bytes:
    key = identity(ImageSource(path), path.suffix)
    assert key is not None
    return key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=int, default=2, help="of each size and format")
    options = parser.parse_args()
    rates = measure(options.repeats, options.files)
    print(
        f"{platform.processor() or platform.machine()}, Pillow {PIL.__version__}, one process; medians of {options.repeats}"
    )
    print(f"{', '.join(SIZES)} megapixels in {', '.join(FORMATS)}\n")
    print(f"{'':<28}{'images/s':>10}{'ratio':>8}")
    for way, rate in rates.items():
        print(f"{way:<28}{rate:>10,.1f}{rate / rates[PLAIN]:>8.2f}")


if __name__ == "__main__":
    main()
