"""Samples with a cache of crops are those without one: the same pixels, the same flaws, after any change of the files."""

from __future__ import annotations

import os
import random
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mirror_pl.data.batch import Sample
from mirror_pl.data.benchmark import BenchmarkDataset, collate_images
from mirror_pl.images import CropCache, PreprocessSpec, pictures
from mirror_pl.scores import Status
from mirror_pl.sources.source import ImageSource

SPEC = PreprocessSpec(max_short_side_px=48, crop_px=40)
GB = 10**9


@dataclass
class Index:
    """As much of a `BenchmarkIndex` as the dataset asks for."""

    sources: list[ImageSource]
    paths: list[str]
    labels: list[int] = field(init=False)
    group_ids: list[int] = field(init=False)
    manifest: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(groups=["all"]))

    def __post_init__(self) -> None:
        self.labels = self.group_ids = [0] * len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, image: int) -> ImageSource:
        return self.sources[image]


def write_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)  # a PNG's size then tells nothing of its content


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Whole, truncated and undecodable files, and a shard with two images; all count as old."""
    monkeypatch.setattr(sys.modules["mirror_pl.images.crop_cache"], "RACY_NS", -(10**10))
    root = tmp_path / "data"
    root.mkdir()
    for seed, name in enumerate(["a.jpg", "b.png", "c.webp", "d.bmp", "e.PNG", "short.png"]):
        write_image(root / name, seed)
    (root / "short.png").write_bytes((root / "short.png").read_bytes()[:9000])
    (root / "no.jpg").write_text("no image")
    paths = [path for path in sorted(root.iterdir()) if path.is_file()]
    sources, names = [ImageSource(path) for path in paths], [path.name for path in paths]
    with tarfile.open(root / "shard.tar", "w") as shard:
        shard.add(root / "a.jpg", "a.jpg")
        shard.add(root / "b.png", "b.png")
    with tarfile.open(root / "shard.tar") as shard:
        for member in shard.getmembers():
            sources.append(ImageSource(root / "shard.tar", member.offset_data, member.size))
            names.append(f"shard.tar/{member.name}")
    time.sleep(0.02)  # so that the next change gets another time
    return Index(sources, names)


def samples(index: Index, cache: CropCache | None, spec: PreprocessSpec = SPEC) -> list[Sample]:
    dataset = BenchmarkDataset(index, spec, cache)  # type: ignore[arg-type]
    return [dataset[image][0] for image in range(len(index))]


def assert_equal(got: list[Sample], expected: list[Sample]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one[:4] == other[:4]
        assert one.reason == other.reason
        assert (one.pixels is None) == (other.pixels is None)
        if one.pixels is not None and other.pixels is not None:
            assert one.pixels.flags.writeable
            np.testing.assert_array_equal(one.pixels, other.pixels)


def assert_cached_as_uncached(index: Index, folder: Path, spec: PreprocessSpec = SPEC) -> None:
    """A first pass and a second one over what the first has stored."""
    expected = samples(index, None, spec)
    for _ in range(2):
        assert_equal(samples(index, CropCache(folder, spec, GB), spec), expected)


def test_cached_samples_are_the_uncached_ones(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = samples(index, None)
    assert [sample.status for sample in expected].count(Status.OK) == 7
    assert [sample.status for sample in expected].count(Status.TRUNCATED) == 1
    assert [sample.status for sample in expected].count(Status.UNDECODABLE) == 1
    assert_cached_as_uncached(index, tmp_path / "cache")
    cache = CropCache(tmp_path / "cache", SPEC, GB)
    assert len(cache._segments) == 7, "only whole images, each once"
    decoded = []
    decode = pictures.decode
    monkeypatch.setattr(
        pictures, "decode", lambda source, decoder: decoded.append(source.path.name) or decode(source, decoder)
    )
    samples(index, cache)
    assert decoded == ["no.jpg", "short.png"]


def rewrite(path: Path) -> None:
    before = path.stat()
    write_image(path, 77)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def replace_by_another(path: Path) -> None:
    write_image(path.with_name("new.png"), 78)
    path.with_name("new.png").replace(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize("change", [rewrite, replace_by_another, cut, lambda path: path.unlink()])
def test_a_file_that_changes(index: Index, tmp_path: Path, change: Callable[[Path], None]) -> None:
    assert_cached_as_uncached(index, tmp_path / "cache")
    change(tmp_path / "data" / "b.png")
    assert_cached_as_uncached(index, tmp_path / "cache")


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pictures.decode

    def decode_slowly(source: ImageSource, decoder: str) -> object:
        decoded = decode(source, decoder)
        os.utime(source.path)
        return decoded

    monkeypatch.setattr(pictures, "decode", decode_slowly)
    samples(index, CropCache(tmp_path / "cache", SPEC, GB))
    assert len(CropCache(tmp_path / "cache", SPEC, GB)._segments) == 0


@pytest.mark.parametrize(
    "change", [{"crop_px": 41}, {"align_quality": 20}, {"max_short_side_px": 50}, {"align_suffixes": (".jpg",)}]
)
def test_a_recipe_that_changes(index: Index, tmp_path: Path, change: dict[str, object]) -> None:
    assert_cached_as_uncached(index, tmp_path / "cache")
    assert_cached_as_uncached(index, tmp_path / "cache", replace(SPEC, **change))  # type: ignore[arg-type]


def test_damage_of_the_cache(index: Index, tmp_path: Path) -> None:
    expected, rng = samples(index, None), random.Random(0)
    for _ in range(20):
        samples(index, CropCache(tmp_path / "cache", SPEC, GB))
        for path in (tmp_path / "cache").rglob("*.*"):
            content = bytearray(path.read_bytes() or b"?")  # cut to nothing by an earlier round
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content[: rng.randint(len(content) * 3 // 4, len(content))])
        assert_equal(samples(index, CropCache(tmp_path / "cache", SPEC, GB)), expected)


def test_workers(index: Index, tmp_path: Path) -> None:
    def pixels(cache: CropCache | None, workers: int) -> torch.Tensor:
        dataset = BenchmarkDataset(index, SPEC, cache)  # type: ignore[arg-type]
        loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=collate_images)  # type: ignore[arg-type]
        return torch.cat([batch.pixels for batch in loader])

    expected = pixels(None, 0)
    for _ in range(2):
        assert torch.equal(pixels(CropCache(tmp_path / "cache", SPEC, GB), 2), expected)
    assert len(list((tmp_path / "cache").rglob("*.crops"))) == 2, "one a worker"


def test_a_huge_member_is_a_bad_image(index: Index) -> None:
    index.sources[-1] = replace(index.sources[-1], size=10**12)
    sample = BenchmarkDataset(index, SPEC)[len(index) - 1][0]
    assert sample.status is Status.UNDECODABLE
    assert "1,000,000,000,000 bytes" in sample.reason
