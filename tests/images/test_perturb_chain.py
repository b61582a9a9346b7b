"""Chains: how they are read, done in order, and drawn for: by seed, image and operation, and by nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from plain_perturbations import STATEMENTS

from mirror_pl.errors import ConfigError
from mirror_pl.images.perturb import parse_perturbation

GREY = Image.new("RGB", (64, 48), (128, 128, 128))
DRAWN = {
    "motion_blur", "gaussian_noise", "impulse_noise", "iso_noise", "multiplicative_noise", "colour_noise", "colour_cast",
    "random_crop", "rotate", "perspective", "jitter", "channel_shift", "patches", "watermark", "sticker", "color_blocks",
}  # fmt: skip
ALL = [f"{name}_{statement.levels[-1]:g}" for name, statement in STATEMENTS.items()]
DIGEST = """
import hashlib, numpy as np
from PIL import Image
from mirror_pl.images.perturb import parse_perturbation
ramp = Image.fromarray((np.arange(48 * 64 * 3) * 7 % 251).astype(np.uint8).reshape(48, 64, 3))
digest = hashlib.sha256()
for text in {texts}:
    digest.update(parse_perturbation(text, seed=3)(ramp, ".png", "some/image.png")[0].tobytes())
"""


def pixels(text: str | list[str], image: Image.Image = GREY, image_id: str = "a", seed: int = 0) -> NDArray[np.float64]:
    return np.asarray(parse_perturbation(text, seed)(image, ".png", image_id)[0], float)


def ramp() -> Image.Image:
    return Image.fromarray((np.arange(48 * 64 * 3) * 7 % 251).astype(np.uint8).reshape(48, 64, 3))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "clean"),
        ("", "clean"),
        ("clean", "clean"),
        ([], "clean"),
        ("jpeg_50", "jpeg_50"),
        ("jpeg2000_16", "jpeg2000_16"),
        ("mean_shift_-0.08", "mean_shift_-0.08"),
        (["resize_0.5", "jpeg_70"], "resize_0.5+jpeg_70"),
        ("resize_0.5+jpeg_70", "resize_0.5+jpeg_70"),
        ("resize_0.70:1.0", "resize_0.7:1"),
        ("hue_-20:20", "hue_-20:20"),
    ],
)
def test_a_chain_is_read_and_named(given: str | list[str] | None, name: str) -> None:
    assert str(parse_perturbation(given)) == name
    assert parse_perturbation(name) == parse_perturbation(given), "a name is a setting, too"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("jpg_50", "perturb=jpg_50: there is no such operation.*jpeg.*available: jpeg, webp"),
        ("jpeg", "perturb=jpeg: expected OPERATION_LEVEL.*a level from 1 to 100: quality"),
        ("jpeg_0", "a level from 1 to 100"),
        ("jpeg_70.5", "whole number"),
        ("jpeg_90:70", "a level from 1 to 100"),
        ("gaussian_noise_1.5", "a level from 0 to 1: standard deviation"),
        ("gaussian_noise_-0.1", "a level from 0 to 1"),
        ("rotate_1.2.3", "a level from 0 to 180"),
    ],
)
def test_mistakes_are_named(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_perturbation(given)
    with pytest.raises(ConfigError, match="perturb_seed must be 0 or more, got -1"):
        parse_perturbation("jpeg_50", seed=-1)


def test_the_order_is_that_of_the_chain() -> None:
    image = ramp()
    dark = pixels(["brightness_0.5", "jpeg_30"], image)
    step_by_step = Image.fromarray(pixels("brightness_0.5", image).astype(np.uint8))
    np.testing.assert_array_equal(dark, pixels("jpeg_30", step_by_step))
    assert not np.array_equal(dark, pixels(["jpeg_30", "brightness_0.5"], image))


@pytest.mark.parametrize(
    ("given", "suffix"),
    [("jpeg_50", ".jpg"), ("webp_50+jpeg_90", ".jpg"), ("jpeg_90+webp_50+resize_0.5", ".webp"), ("rotate_5", ".png"), ("", ".png"),
     ("avif_50", ".avif"), ("jpeg2000_8", ".jp2"), ("jpeg_90+screenshot_100", ".png")],
)  # fmt: skip
def test_the_suffix_is_that_of_the_last_codec(given: str, suffix: str) -> None:
    assert parse_perturbation(given)(GREY, ".png", "a")[1] == suffix


def test_a_clean_picture_is_the_image_itself() -> None:
    assert parse_perturbation("clean")(GREY, ".bmp", "a") == (GREY, ".bmp")


@pytest.mark.parametrize("text", ALL)
def test_what_is_drawn_follows_from_seed_and_image_alone(text: str) -> None:
    image = ramp()
    first = pixels(text, image)
    np.testing.assert_array_equal(first, pixels(text, image))
    others = [pixels(text, image, image_id=name) for name in "bcdefgh"]
    others += [pixels(text, image, seed=seed) for seed in range(1, 5)]
    changed = any(other.shape != first.shape or (other != first).any() for other in others)
    assert changed == (text.rpartition("_")[0] in DRAWN - {"rotate"} or text == "rotate_45")


def test_rotation_is_to_both_sides() -> None:
    found = {pixels("rotate_30", ramp(), image_id=str(number)).tobytes() for number in range(20)}
    assert len(found) == 2


def test_the_same_bytes_in_another_process() -> None:
    code = DIGEST.format(texts=ALL)
    environment = {**os.environ, "PYTHONHASHSEED": "99"}
    done = subprocess.run(
        [sys.executable, "-c", code + "print(digest.hexdigest())"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    digest = hashlib.sha256()
    for text in ALL:
        digest.update(parse_perturbation(text, seed=3)(ramp(), ".png", "some/image.png")[0].tobytes())
    assert done.stdout.strip() == digest.hexdigest()


def test_draws_are_the_same_at_each_level() -> None:
    weak, strong = pixels("gaussian_noise_0.02") - 128, pixels("gaussian_noise_0.06") - 128
    assert np.abs(3 * weak - strong).max() <= 2, "three roundings of half a level, and one"
    few, many = pixels("impulse_noise_0.02"), pixels("impulse_noise_0.2")
    np.testing.assert_array_equal(many[few != 128], few[few != 128])
    first, more = pixels("color_blocks_1"), pixels("color_blocks_3")
    assert ((first != 128) & (more == 128)).sum() == 0, "the first block is where it was"


def test_an_operation_that_stands_twice_draws_twice() -> None:
    once = pixels("gaussian_noise_0.02") - 128
    twice = pixels(["gaussian_noise_0.02", "gaussian_noise_0.02"]) - 128
    assert twice.std() == pytest.approx(np.sqrt(2) * once.std(), rel=0.05), "twice the same would be two times as much"


def test_a_range_is_drawn_for_each_image() -> None:
    levels = [pixels("brightness_0.5:1.5", image_id=str(number))[0, 0, 0] / 128 for number in range(200)]
    assert min(levels) < 0.53
    assert max(levels) > 1.47
    assert np.mean(levels) == pytest.approx(1, abs=0.06), "three standard errors of an even draw"
    assert len({pixels("jpeg_20:22", ramp(), image_id=str(number)).tobytes() for number in range(30)}) == 3, "whole numbers"
