"""Each operation against its plain statement: equal pixels, or within what the statement says, for a reason that it gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from plain_perturbations import STATEMENTS

from mirror_pl.errors import ConfigError
from mirror_pl.images import UndecodableImageError
from mirror_pl.images.perturb import OPERATIONS, parse_perturbation

SIZES = [(83, 61), (7, 3), (1, 1)]
CASES = [(name, level, size) for name, statement in STATEMENTS.items() for level in statement.levels for size in SIZES]


def picture(size: tuple[int, int]) -> Image.Image:
    """Soft shapes, edges and a little noise, the same in each run."""
    width, height = size
    generator = np.random.default_rng(5)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse, float) + generator.normal(0, 4, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 12, 128)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def rounded(pixels: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.int64)


def test_each_operation_has_its_statement() -> None:
    assert set(OPERATIONS) == set(STATEMENTS)
    for name, statement in STATEMENTS.items():
        assert all(OPERATIONS[name].low <= level <= OPERATIONS[name].high for level in statement.levels)
        assert statement.off == 0 or statement.reason


@pytest.mark.parametrize(("name", "level", "size"), CASES, ids=lambda part: str(part).replace(" ", ""))
def test_pixels_are_as_stated(name: str, level: float, size: tuple[int, int]) -> None:
    statement = STATEMENTS[name]
    image = picture(size)
    before = image.tobytes()
    result = OPERATIONS[name].apply(image, level, np.random.default_rng(8))
    assert (result.mode, image.tobytes()) == ("RGB", before), "the input must not change"
    expected = rounded(statement.plain(np.array(image), level, np.random.default_rng(8)))
    found = np.asarray(result).astype(np.int64)
    assert found.shape == expected.shape
    differences = np.abs(found - expected)
    assert differences.max() <= statement.off
    few = 3 / differences.size  # in a small picture one pixel may be a large share
    assert (differences > 0).mean() <= max(statement.share, few if statement.off else 0)
    assert differences.mean() <= statement.mean or differences.size < 100
    again = OPERATIONS[name].apply(image, level, np.random.default_rng(8))
    assert again.tobytes() == result.tobytes()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_neutral_level_returns_the_image_itself(name: str) -> None:
    neutral = STATEMENTS[name].neutral
    image = picture((20, 30))
    if neutral is None:
        assert name in {"jpeg", "webp", "avif", "jpeg2000", "clahe", "screenshot"}
    else:
        assert OPERATIONS[name].apply(image, neutral, np.random.default_rng(0)) is image


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (300, 2)], ids=str)
def test_any_picture_at_any_level_gives_a_picture(name: str, size: tuple[int, int]) -> None:
    operation = OPERATIONS[name]
    image = picture(size)
    for level in (operation.low, operation.high if operation.unit != "number of patches" else 20):
        result = operation.apply(image, level, np.random.default_rng(0))
        assert result.mode == "RGB"
        assert min(result.size) >= 1


def test_jpeg_2000_loses_more_at_a_higher_ratio() -> None:
    image = picture((256, 256))
    losses = [
        np.abs(np.subtract(OPERATIONS["jpeg2000"].apply(image, ratio, np.random.default_rng(0)), image, dtype=float)).mean()
        for ratio in (8, 16, 32, 64)
    ]
    assert losses == sorted(set(losses))


def test_levels_are_what_their_unit_says() -> None:
    grey = Image.new("RGB", (400, 300), (128, 128, 128))

    def change(text: str) -> NDArray[np.float64]:
        return np.subtract(parse_perturbation(text)(grey, ".png", "a")[0], grey, dtype=float)

    assert change("gaussian_noise_0.05").std() / 255 == pytest.approx(0.05, rel=0.01)
    assert change("multiplicative_noise_0.1").std() / 128 == pytest.approx(0.1, rel=0.01)
    assert (change("impulse_noise_0.02") != 0).mean() == pytest.approx(0.02, rel=0.1)
    iso = change("iso_noise_0.05")
    assert (iso @ [0.299, 0.587, 0.114]).std() / 255 == pytest.approx(0.05 * math.sqrt(128 / 255), rel=0.02)
    black = parse_perturbation("iso_noise_0.05")(Image.new("RGB", (400, 300)), ".png", "a")[0]
    assert np.asarray(black).mean() < 5, "shot noise needs light"
    covered = parse_perturbation("sticker_0.1")(grey, ".png", "a")[0]
    assert (np.asarray(covered) != 128).any(2).mean() == pytest.approx(0.1, rel=0.02)


def test_a_codec_that_pillow_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror_pl.images.perturb.perturbation.features.check", lambda _: False)
    for name in ("avif", "webp", "jpeg2000"):
        with pytest.raises(ConfigError, match=f"perturb={name}_50: .* built without {name}"):
            parse_perturbation(f"{name}_50")
    assert parse_perturbation("jpeg_50")(picture((8, 8)), ".png", "a")[1] == ".jpg"


def test_a_picture_that_a_codec_cannot_hold_is_named() -> None:
    with pytest.raises(UndecodableImageError, match=r"^WEBP cannot hold the perturbed picture of 20000 x 2 px .*long_side"):
        parse_perturbation("webp_50")(Image.new("RGB", (20000, 2)), ".png", "a")
