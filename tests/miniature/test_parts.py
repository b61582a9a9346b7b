"""The parts of the miniature world: photographs, crops, decoders and numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirror_pl.errors import ConfigError, DataError
from mirror_pl.miniature import WorldSpec
from mirror_pl.miniature.decoders import DECODERS
from mirror_pl.miniature.photographs import PHOTOGRAPHS, cut_crops, read_photographs, vary
from mirror_pl.miniature.rebuilding import rebuild, train_rebuilder

DATA = Path(__file__).parents[2] / "data/miniature"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_readme_lists_every_photograph() -> None:
    listed = re.findall(r"^\| `(\w+)\.jpg` \|", (DATA / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    files = sorted(path.name for path in (DATA / "photographs").iterdir())
    assert files == sorted(f"{name}.jpg" for name in listed)
    assert sorted(listed) == sorted(name for names in PHOTOGRAPHS.values() for name in names)


def test_photographs_are_small_and_rgb() -> None:
    files = list((DATA / "photographs").iterdir())
    assert sum(file.stat().st_size for file in files) < 2.5e6
    for file in files:
        with Image.open(file) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 256 <= min(image.size) <= 512


def test_missing_and_damaged_photographs_are_named(tmp_path: Path) -> None:
    for name in PHOTOGRAPHS["test"][1:]:
        shutil.copy(DATA / f"photographs/{name}.jpg", tmp_path)
    first = PHOTOGRAPHS["test"][0]
    with pytest.raises(DataError, match=rf"has no {first}\.jpg.*git checkout"):
        read_photographs(tmp_path, "test")
    whole = (DATA / f"photographs/{first}.jpg").read_bytes()
    for content in (b"nothing", whole[: len(whole) // 2]):
        (tmp_path / f"{first}.jpg").write_bytes(content)
        with pytest.raises(DataError, match=rf"{first}\.jpg is damaged"):
            read_photographs(tmp_path, "test")


def test_crops_have_contrast() -> None:
    spec = WorldSpec()
    half_empty = noise(200, 300, 3)
    half_empty[:, :150] = 7
    crops = cut_crops("x", half_empty, 50, spec, np.random.default_rng(0))
    assert crops.shape == (50, spec.crop_px, spec.crop_px, 3)
    assert crops.mean(axis=3).std(axis=(1, 2)).min() >= spec.least_contrast


def test_plain_and_small_photographs_are_refused() -> None:
    for photograph, reason in (
        (np.full((100, 100, 3), 9, np.uint8), "only 0 of 5"),
        (noise(50, 90, 3), "photograph x has 90 x 50 pixels"),
    ):
        with pytest.raises(DataError, match=reason):
            cut_crops("x", photograph, 5, WorldSpec(), np.random.default_rng(0))


def test_varied_crops_keep_their_pixels() -> None:
    flat = np.repeat(np.arange(0, 250, 5, dtype=np.uint8), 16 * 3).reshape(50, 4, 4, 3)
    assert (np.ptp(vary(flat, np.random.default_rng(0)), axis=(1, 2, 3)) == 0).all()
    crops = noise(50, 8, 8, 3)
    varied = vary(crops, np.random.default_rng(0))
    before, after = (np.sort(images.reshape(50, -1)) for images in (crops, varied))
    assert (np.diff(after)[np.diff(before) == 0] == 0).all()  # one tone curve for all of a crop
    assert not (varied == crops).all(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str) -> None:
    rebuilder = DECODERS[name]()
    pixels = torch.rand(2, 3, 16, 24)
    made, cost = rebuilder(pixels)
    assert made.shape == pixels.shape
    assert (cost > 0) == (name == "variational")
    crops = noise(70, 16, 16, 3)
    crops[3] = crops[3, ..., :1]
    rebuilt = rebuild(rebuilder.eval(), crops)
    assert (rebuilt.shape, rebuilt.dtype) == (crops.shape, np.uint8)
    assert (np.ptp(rebuilt[3], axis=2) == 0).all()
    assert (np.ptp(rebuilt[4], axis=2) > 0).any()


def test_decoders_learn() -> None:
    ramp = np.linspace(0, 255, 16).astype(np.uint8)
    crops = np.stack([np.broadcast_to(np.rot90(np.tile(ramp, (16, 1)), k)[..., None], (16, 16, 3)) for k in range(4)])
    spec = WorldSpec(crop_px=16, patch_px=16, box_px=(16, 16), steps=40, batch_size=8)
    for name, make in DECODERS.items():
        rebuilder = make()
        before = np.abs(rebuild(rebuilder.eval(), crops).astype(float) - crops).mean()
        done: list[int] = []
        train_rebuilder(rebuilder, crops, spec, done.append)
        assert not rebuilder.training
        assert done == list(range(1, 41))
        assert np.abs(rebuild(rebuilder, crops).astype(float) - crops).mean() < before / 2, name


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"held_out": "gan"}, "held_out must be one of variational"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"box_px": (32, 64)}, "at least crop_px = 64"),
        ({"box_px": (90, 80)}, "smallest, largest"),
        ({"jpeg_quality": 101}, "1 to 100"),
        ({"patch_px": 30}, "multiples of 4"),
        ({"patch_px": 128}, "not the larger one"),
    ],
)
def test_impossible_worlds_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WorldSpec(**values)  # type: ignore[arg-type]
