"""Crops of an image: where the rules say, with the central one exactly as evaluation cuts it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mirror_pl.errors import ConfigError
from mirror_pl.images import CROPS, PreprocessSpec, cut, plan_crops, preprocess
from mirror_pl.images.crops import crop_count
from mirror_pl.images.spec import Resample

SIDES = st.integers(1, 700)
COUNTS = {"center": 1, "five": 5, "grid3x3": 9, "grid4x4": 16, "grid5x5": 25, "multiscale": 3, "native": 1, "windows": 5}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a slope, so that no two places look alike."""
    generator = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height), np.arange(width))[..., None] % 251
    return Image.fromarray(((slope + generator.integers(0, 60, (height, width, 3))) % 256).astype(np.uint8))


def test_the_central_crop_is_evaluations_for_500_sizes() -> None:
    generator = random.Random(0)
    spec = PreprocessSpec(max_short_side_px=96, crop_px=48)
    for number in range(500):
        size = (generator.randint(1, 260), generator.randint(1, 260))
        suffix = generator.choice([".jpg", ".png", ".BMP", ".webp"])
        image = picture(*size, seed=number)
        crops = cut(image, suffix, spec, plan_crops(size, spec))
        np.testing.assert_array_equal(crops[0], preprocess(image, suffix, spec), str(size))
        assert crops.shape == (1, 48, 48, 3)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_a_part_that_is_resized_by_itself_is_that_of_the_whole(resample: Resample) -> None:
    """With a short side of a power of two, along which a part begins by itself; long sides are of all lengths."""
    generator = random.Random(1)
    for number in range(150):
        spec = PreprocessSpec(max_short_side_px=64, crop_px=generator.choice([1, 24, 63, 64, 80]), resample=resample)
        size = (generator.randint(1, 300), generator.randint(1, 300))
        if number % 5 == 0:
            size = (size[0], size[0])
        image = picture(*size, seed=number)
        crops = cut(image, ".jpg", spec, plan_crops(size, spec))
        np.testing.assert_array_equal(crops[0], preprocess(image, ".jpg", spec), str((size, spec.crop_px)))


def test_the_central_crop_of_a_strip_that_pillow_resizes_in_another_order() -> None:
    image, spec = (
        picture(2, 256, seed=0),
        PreprocessSpec(max_short_side_px=None, squash_px=512, crop_px=224, resample="bilinear"),
    )
    crops = cut(image, ".jpg", spec, plan_crops(image.size, spec))
    np.testing.assert_array_equal(crops[0], preprocess(image, ".jpg", spec))


def test_the_central_crop_by_the_published_recipe() -> None:
    for size in [(900, 600), (512, 512), (224, 224), (100, 900), (223, 1000), (513, 800)]:
        image, spec = picture(*size), PreprocessSpec()
        np.testing.assert_array_equal(cut(image, ".png", spec, plan_crops(size, spec))[0], preprocess(image, ".png", spec))


def stated_origins(side: int, crop: int, count: int) -> list[int]:
    """The rule in other words: the i-th of n origins is i / (n - 1) of the way, to the nearest whole number, ties to even."""
    if side < crop:  # zeros come first, as many as after it or one fewer
        return [-((crop - side) // 2)] * count
    found = []
    for i in range(count):
        numerator, denominator = i * (side - crop), count - 1
        whole, rest = divmod(numerator, denominator)
        if 2 * rest > denominator or (2 * rest == denominator and whole % 2):
            whole += 1
        found.append(whole)
    return found


@given(SIDES, SIDES, st.sampled_from([3, 4, 5]))
def test_grids_are_spread_evenly(width: int, height: int, count: int) -> None:
    spec = PreprocessSpec(max_short_side_px=None, crop_px=224)
    plan = plan_crops((width, height), spec, f"grid{count}x{count}")
    across, down = stated_origins(width, 224, count), stated_origins(height, 224, count)
    assert [(crop.left, crop.top) for crop in plan] == [(left, top) for top in down for left in across]
    assert all(crop.resized == (width, height) and crop.side == 224 for crop in plan)


@given(SIDES, SIDES)
def test_four_corners_and_the_centre(width: int, height: int) -> None:
    spec = PreprocessSpec(max_short_side_px=None, crop_px=224)
    corners = [(a, b) for b in stated_origins(height, 224, 2) for a in stated_origins(width, 224, 2)]
    plan = plan_crops((width, height), spec, "five")
    assert [(crop.left, crop.top) for crop in plan[:4]] == corners
    assert plan[4:] == plan_crops((width, height), spec, "center")


@given(SIDES, SIDES)
def test_scales_and_native(width: int, height: int) -> None:
    spec = PreprocessSpec(max_short_side_px=300, crop_px=224)
    half, same, double = plan_crops((width, height), spec, "multiscale")
    (center,), (native,) = (plan_crops((width, height), spec, name) for name in ("center", "native"))
    assert same == center
    for scaled, factor in ((half, 0.5), (double, 2)):
        assert all(abs(a - factor * b) <= 0.5 or a == 1 for a, b in zip(scaled.resized, center.resized, strict=True))
    assert native.resized == (width, height)
    if min(width, height) <= 300:
        assert native == center


@pytest.mark.parametrize("crops", CROPS)
def test_every_crop_is_what_its_plan_says(crops: str) -> None:
    spec = PreprocessSpec(max_short_side_px=64, crop_px=32)
    for size in [(90, 70), (20, 50), (32, 32), (31, 200)]:
        image = picture(*size)
        plan = plan_crops(size, spec, crops)
        pixels = cut(image, ".jpg", spec, plan)
        assert len(plan) == len(pixels) == COUNTS[crops] == crop_count(crops)
        for crop, got in zip(plan, pixels, strict=True):
            resized = np.asarray(image if crop.resized == size else image.resize(crop.resized, Image.Resampling.BICUBIC))
            expected = np.zeros((32, 32, 3), np.uint8)
            for y in range(32):
                for x in range(32):
                    row, column = crop.top + y, crop.left + x
                    if crop.period is not None:
                        row, column = row % crop.period[1], column % crop.period[0]
                    if 0 <= row < crop.resized[1] and 0 <= column < crop.resized[0]:
                        expected[y, x] = resized[row, column]
            np.testing.assert_array_equal(got, expected)


def test_each_crop_is_aligned_by_itself() -> None:
    spec = PreprocessSpec(max_short_side_px=None, crop_px=32)
    image = picture(100, 80)
    plan = plan_crops(image.size, spec, "grid3x3")
    aligned, plain = (cut(image, suffix, spec, plan) for suffix in (".PNG", ".jpg"))
    for crop, got, whole in zip(plan, aligned, plain, strict=True):
        alone = image.crop((crop.left, crop.top, crop.left + 32, crop.top + 32))
        np.testing.assert_array_equal(got, preprocess(alone, ".png", spec))
        assert (got != whole).any()


def test_where_a_crop_lies_in_the_picture() -> None:
    spec = PreprocessSpec()
    (crop,) = plan_crops((2048, 1024), spec)
    assert crop.box((2048, 1024)) == (800, 288, 1248, 736)
    (padded,) = plan_crops((100, 300), spec)
    left, top, right, bottom = padded.box((100, 300))
    assert (left, right) == (-62, 162)
    assert (top, bottom) == (38, 262)
    assert math.isclose(right - left, 224)


def test_unknown_modes_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean grid3x3"):
        plan_crops((10, 10), PreprocessSpec(), "grid3")
