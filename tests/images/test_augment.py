"""Training crops against plain Pillow, the frequencies of what is drawn, and what must not depend on anything else."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mirror_pl.errors import ConfigError
from mirror_pl.images import AugmentSpec, augment

BICUBIC = Image.Resampling.BICUBIC
PLAIN = AugmentSpec(jpeg_quality=None, align_quality=None)


def only(kind: str, **changes: object) -> AugmentSpec:
    chances = {name: float(name == kind) for name in ("p_centre", "p_resize", "p_random", "p_rescaled")}
    return replace(PLAIN, **(chances | changes))  # type: ignore[arg-type]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured clouds: smooth enough that the order of Pillow's two passes makes no difference over rounding."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)).point(lambda v: (v - 96) * 4)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def draws(seed: int, spec: AugmentSpec) -> tuple[float, int, float, float, int]:
    """The five numbers in their documented order."""
    rng = np.random.default_rng(seed)
    low, high = spec.rescale_px
    chance, short = rng.random(), int(rng.integers(low, high + 1))
    x, y = rng.random(), rng.random()
    low, high = spec.jpeg_quality or (1, 1)
    return chance, short, x, y, int(rng.integers(low, high + 1))


def oracle(image: Image.Image, spec: AugmentSpec, seed: int, fake: bool) -> NDArray[np.uint8]:
    """The published recipe in plain Pillow: whole images resized, then cut."""
    chance, short, x, y, quality = draws(seed, spec)
    edge = spec.crop_px
    if fake and spec.align_quality is not None:
        image = jpeg(image, spec.align_quality)

    def to_short_side(image: Image.Image, side: int) -> Image.Image:
        small = min(image.size)
        return image.resize((round(image.width * side / small), round(image.height * side / small)), BICUBIC)

    def cut(image: Image.Image, left: int, top: int) -> Image.Image:
        return image.crop((left, top, left + edge, top + edge))

    def somewhere(image: Image.Image) -> Image.Image:
        return cut(image, math.floor(x * (image.width - edge + 1)), math.floor(y * (image.height - edge + 1)))

    large = image if min(image.size) >= edge else to_short_side(image, edge)
    if chance < spec.p_centre:
        crop = cut(large, round((large.width - edge) / 2), round((large.height - edge) / 2))
    elif chance < spec.p_centre + spec.p_resize:
        crop = image.resize((edge, edge), BICUBIC)
    elif chance < spec.p_centre + spec.p_resize + spec.p_random:
        crop = somewhere(large)
    else:
        crop = somewhere(to_short_side(image, short))
    return np.array(crop if spec.jpeg_quality is None else jpeg(crop, quality))


@pytest.mark.parametrize("kind", ["p_centre", "p_resize", "p_random", "p_rescaled"])
@pytest.mark.parametrize("size", [(300, 260), (225, 500), (90, 130), (224, 224), (40, 300)])
def test_each_kind_of_crop_is_plain_pillow(kind: str, size: tuple[int, int]) -> None:
    image, spec = picture(*size), only(kind, rescale_px=(224, 400))
    for seed in range(4):
        got = augment(image, spec, np.random.default_rng(seed), fake=False)
        assert got.shape == (224, 224, 3)
        assert got.dtype == np.uint8
        assert got.flags.writeable
        expected = oracle(image, spec, seed, fake=False)
        resized = kind == "p_rescaled" or (kind != "p_resize" and min(size) < 224)
        if resized:
            assert np.abs(got.astype(int) - expected).max() <= 2
        else:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fake", [False, True])
def test_the_whole_recipe(fake: bool) -> None:
    """Where nothing is resized to be cut, to the last bit, compression and alignment included."""
    image = picture(301, 277)
    spec = AugmentSpec(p_centre=0.5, p_resize=0.1, p_random=0.4, p_rescaled=0)
    for seed in range(20):
        got = augment(image, spec, np.random.default_rng(seed), fake=fake)
        np.testing.assert_array_equal(got, oracle(image, spec, seed, fake))


def test_jpeg_ends_every_crop_and_fakes_are_aligned_first() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    spec = only("p_centre", jpeg_quality=(70, 70), align_quality=96)

    def crop(spec: AugmentSpec, fake: bool) -> NDArray[np.uint8]:
        return augment(noise, spec, np.random.default_rng(0), fake=fake)

    np.testing.assert_array_equal(crop(spec, fake=False), np.array(jpeg(noise, 70)))
    np.testing.assert_array_equal(crop(spec, fake=True), np.array(jpeg(jpeg(noise, 96), 70)))
    np.testing.assert_array_equal(crop(replace(spec, align_quality=None), fake=True), np.array(jpeg(noise, 70)))
    np.testing.assert_array_equal(crop(replace(spec, jpeg_quality=None), fake=True), np.array(jpeg(noise, 96)))
    np.testing.assert_array_equal(crop(replace(spec, jpeg_quality=None), fake=False), np.array(noise))


def test_a_fake_that_no_jpeg_can_hold_is_aligned_as_a_crop() -> None:
    image = picture(65_501, 224)
    spec = only("p_centre", align_quality=96)
    left = round((65_501 - 224) / 2)
    expected = jpeg(image.crop((left, 0, left + 224, 224)), 96)
    np.testing.assert_array_equal(augment(image, spec, np.random.default_rng(0), fake=True), np.array(expected))


def test_a_very_long_image_is_not_resized_whole() -> None:
    image = Image.new("RGB", (60_000, 2), (10, 200, 30))  # 31 million pixels a row, were it resized to 1024
    for kind in ("p_centre", "p_random", "p_rescaled"):
        crop = augment(image, only(kind, rescale_px=(1024, 1024)), np.random.default_rng(1), fake=False)
        assert (crop == (10, 200, 30)).all()


def test_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which crop, size, place and quality, over many generators, within 5 standard deviations."""
    seen: list[tuple[int, int, int, int]] = []
    qualities: list[int] = []
    tile = Image.new("RGB", (4, 4))

    class Size:  # only what is asked of it counts
        size, width, height = (600, 400), 600, 400

        def resize(self, size: tuple[int, int], *_: object) -> Image.Image:
            seen.append((1, 0, 0, 0))
            return tile

    def window(image: Size, size: tuple[int, int], left: int, top: int, edge: int) -> Image.Image:
        assert 0 <= left <= size[0] - edge
        assert 0 <= top <= size[1] - edge
        seen.append((0, min(size), left, top))
        return tile

    module = sys.modules["mirror_pl.images.augment"]
    monkeypatch.setattr(module, "_resized_window", window)
    monkeypatch.setattr(module, "align_format", lambda image, quality: qualities.append(quality) or image)
    n = 4000
    for seed in range(n):
        augment(Size(), AugmentSpec(), np.random.default_rng([7, seed]), fake=False)  # type: ignore[arg-type]
    assert len(seen) == len(qualities) == n

    def check(count: int, total: int, p: float) -> None:
        assert abs(count - total * p) < 5 * math.sqrt(total * p * (1 - p)), (count, total, p)

    table = np.array(seen)
    whole, short, left, top = table.T
    centre = (short == 400) & (left == 188) & (top == 88)
    check(int(whole.sum()), n, 0.1)
    check(int(centre.sum()), n, 0.3)
    rescaled = (short > 0) & (short != 400)
    check(int(rescaled.sum()), n, 0.3 * 800 / 801)
    unscaled = (short == 400) & ~centre
    check(int(unscaled.sum()), n, 0.3 + 0.3 / 801)
    check(int((short[rescaled] < 624).sum()), int(rescaled.sum()), 399 / 800)
    assert short[rescaled].min() >= 224
    assert short[rescaled].max() <= 1024
    check(int((left[unscaled] < 188).sum()), int(unscaled.sum()), 188 / 377)
    check(int((top[unscaled] < 88).sum()), int(unscaled.sum()), 88 / 177)
    assert {left[unscaled].min(), top[unscaled].min()} == {0}
    check(sum(q < 75 for q in qualities), n, 25 / 51)
    assert set(qualities) == set(range(50, 101))


def test_the_same_numbers_are_drawn_whatever_the_image_and_the_recipe() -> None:
    after = set()
    for size in ((300, 260), (90, 130)):
        for spec in (AugmentSpec(rescale_px=(224, 300)), only("p_resize"), AugmentSpec.fixed()):
            for fake in (False, True):
                rng = np.random.default_rng(3)
                augment(picture(*size), replace(spec, rescale_px=(224, 300), jpeg_quality=(50, 100)), rng, fake=fake)
                after.add(rng.random())
    assert len(after) == 1


def test_fixed_crops_draw_nothing() -> None:
    image = picture(301, 270)
    expected = np.array(image.crop((round(77 / 2), 23, round(77 / 2) + 224, 247)))
    for seed in range(5):
        for fake in (False, True):
            np.testing.assert_array_equal(
                augment(image, AugmentSpec.fixed(), np.random.default_rng(seed), fake=fake), expected
            )
    assert augment(image, AugmentSpec.fixed(64), np.random.default_rng(0), fake=True).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"crop_px": 0}, "crop_px"),
        ({"p_centre": 0.4}, "sum to 1"),
        ({"p_centre": -0.3, "p_random": 0.9}, "0 or more"),
        ({"p_centre": float("nan")}, "sum to 1"),
        ({"rescale_px": (200, 1024)}, "rescale_px"),
        ({"rescale_px": (500, 400)}, "rescale_px"),
        ({"jpeg_quality": (0, 100)}, "jpeg_quality"),
        ({"jpeg_quality": (50, 101)}, "jpeg_quality"),
        ({"jpeg_quality": (90, 50)}, "jpeg_quality"),
        ({"align_quality": 0}, "align_quality"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AugmentSpec(**settings)  # type: ignore[arg-type]


def test_mirroring_is_a_draw_of_its_own() -> None:
    """It moves no other draw, happens as often as asked for, and not at all by default."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    plain, never, half, always = (
        replace(AugmentSpec(crop_px=24, rescale_px=(24, 60), jpeg_quality=None), p_mirror=p) for p in (0.0, 0.0, 0.5, 1.0)
    )
    mirrored = 0
    for seed in range(200):
        first, same, maybe, other = (
            augment(image, spec, np.random.default_rng(seed), fake=False) for spec in (plain, never, half, always)
        )
        np.testing.assert_array_equal(first, same)
        np.testing.assert_array_equal(first[:, ::-1], other)
        is_mirrored = np.array_equal(maybe, other)
        assert is_mirrored or np.array_equal(maybe, first)
        mirrored += is_mirrored
    assert 70 <= mirrored <= 130  # 4.2 standard deviations of a fair coin
    with pytest.raises(ConfigError, match=r"augment\.p_mirror must be between 0 and 1, got 2"):
        AugmentSpec(p_mirror=2)
