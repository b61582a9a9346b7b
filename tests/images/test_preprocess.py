"""Preprocessing against the published crops, and against an independent statement of its rules."""

from __future__ import annotations

import math
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from golden_set import GoldenSet
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirror_pl.images import PreprocessSpec, decode, preprocess
from mirror_pl.images.preprocess import resized_size

SPEC = PreprocessSpec()


def test_golden_crops_are_equal(golden: GoldenSet) -> None:
    """Equal to the bit with the Pillow they were made with; another libjpeg may differ by 2."""
    different = {}
    for path, expected in golden.crops().items():
        pixels = preprocess(decode(golden.data_root / path).image, Path(path).suffix, SPEC)
        assert pixels.shape == (224, 224, 3)
        assert pixels.dtype == np.uint8
        largest = int(np.abs(pixels.astype(int) - expected).max())
        if largest:
            different[path] = largest
    import PIL

    assert all(largest <= 2 for largest in different.values()), different
    if PIL.__version__ == "13.0.0":
        assert not different


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose pixels tell where they came from: (x mod 251 + 1, y mod 251 + 1, 255); 0 means padding."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[..., 0] = np.arange(width) % 251 + 1
    pixels[..., 1] = (np.arange(height) % 251 + 1)[:, None]
    return Image.fromarray(pixels)


def half_to_even(value: Fraction) -> int:
    floor = math.floor(value)
    if value - floor == Fraction(1, 2):
        return floor if floor % 2 == 0 else floor + 1
    return math.floor(value + Fraction(1, 2))


@given(st.integers(1, 900), st.integers(1, 900))
@settings(max_examples=150, deadline=None)
def test_centre_crop_follows_the_rules_of_torchvision(width: int, height: int) -> None:
    """Too small a side: padded, the smaller half of the padding first. Otherwise: origin (side - crop) / 2, to even."""
    cropped = preprocess(coordinates(width, height), "", PreprocessSpec(max_short_side_px=None))
    for axis, side in ((1, width), (0, height)):
        line = cropped[..., 0].max(axis=0) if axis == 1 else cropped[..., 1].max(axis=1)
        expected = np.zeros(224, int)
        if side < 224:
            before = (224 - side) // 2
            expected[before : before + side] = np.arange(side) % 251 + 1
        else:
            origin = half_to_even(Fraction(side - 224, 2))
            expected = np.arange(origin, origin + 224) % 251 + 1
        np.testing.assert_array_equal(line, expected)


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=100, deadline=None)
def test_short_side_is_resized_only_when_over_the_limit(width: int, height: int) -> None:
    size, short = (width, height), min(width, height)
    expected = size if short <= 512 else tuple(half_to_even(Fraction(side * 512, short)) for side in size)
    assert resized_size(size, SPEC) == expected  # resizing itself is Pillow's
    assert resized_size(size, PreprocessSpec(max_short_side_px=None)) == size


@pytest.mark.parametrize(("suffix", "aligned"), [(".png", True), (".BMP", True), (".jpg", False), (".webp", False)])
def test_format_alignment_goes_by_the_suffix(suffix: str, aligned: bool) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    expected = np.array(noise)
    if aligned:
        buffer = BytesIO()
        noise.save(buffer, "JPEG", quality=96)
        expected = np.array(Image.open(buffer))
    np.testing.assert_array_equal(preprocess(noise, suffix, SPEC), expected)
