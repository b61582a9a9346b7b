"""The miniature world: its layout, that it gives nothing away but how fakes are made, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirror_pl.benchmarks import index_benchmark
from mirror_pl.config.build import build_manifest
from mirror_pl.config.command import compose
from mirror_pl.data.training_set import find_training_images
from mirror_pl.errors import OutputError
from mirror_pl.files import path_sha256
from mirror_pl.images import IMAGE_SUFFIXES
from mirror_pl.labels import FAKE, REAL
from mirror_pl.miniature import WorldSpec, build_world
from mirror_pl.miniature.decoders import DECODERS
from mirror_pl.miniature.photographs import PHOTOGRAPHS

PHOTOGRAPHS_FOLDER = Path(__file__).parents[2] / "data/miniature/photographs"
SPEC = WorldSpec(train_crops=4, val_crops=3, test_crops=2, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "world"
    build_world(folder, PHOTOGRAPHS_FOLDER, SPEC)
    return folder


def images(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


def photograph(file: Path) -> str:
    return file.stem.rpartition("_")[0]


def test_same_seed_same_bytes(world: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    lines: list[str] = []
    build_world(tmp_path / "again", PHOTOGRAPHS_FOLDER, SPEC, report=lines.append)
    assert path_sha256(tmp_path / "again") == path_sha256(world)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert "left" in lines[0]
    build_world(tmp_path / "other", PHOTOGRAPHS_FOLDER, SPEC, seed=1)
    assert path_sha256(tmp_path / "other") != path_sha256(world)


def test_no_two_splits_share_a_photograph(world: Path) -> None:
    for split, names in PHOTOGRAPHS.items():
        assert {photograph(file) for file in images(world / split)} == set(names)
    everything = [name for names in PHOTOGRAPHS.values() for name in names]
    assert len(set(everything)) == len(everything)


def test_fakes_are_the_reals_rebuilt(world: Path) -> None:
    for split in ("train", "val"):
        fakes = images(world / split / "1_fake")
        assert sorted(file.name for file in fakes) == [file.name for file in images(world / split / "0_real")]
        assert {file.parent.name for file in fakes} == set(SPEC.seen)
    reals = [file.name for file in images(world / "test/reals")]
    assert len(reals) == SPEC.test_crops * len(PHOTOGRAPHS["test"])
    for name in DECODERS:
        assert [file.name for file in images(world / "test" / name)] == reals


def test_the_files_give_nothing_away(world: Path) -> None:
    forms = set()
    for file in images(world):
        with Image.open(file) as image:
            forms.add((image.format, image.size, image.mode, str(image.quantization), str(image.layer), str(image.info)))
    assert len(forms) == 1


def test_trivial_statistics_are_equal(world: Path) -> None:
    for fake in images(world / "test/nearest"):
        made, real = (np.array(Image.open(file), float) for file in (fake, world / "test/reals" / fake.name))
        assert np.abs(made.mean((0, 1)) - real.mean((0, 1))).max() < 8  # what clipping and compression leave
        assert np.abs(made.std((0, 1)) - real.std((0, 1))).max() < 16
        if (np.ptp(real, axis=2) == 0).all():
            assert (np.ptp(made, axis=2) == 0).all()


def test_training_finds_it(world: Path) -> None:
    found = find_training_images(root=world)
    count = SPEC.train_crops * len(PHOTOGRAPHS["train"])
    assert np.bincount(found.labels).tolist() == [count, count]
    found = find_training_images(root=world / "val")
    assert len(found) == 2 * SPEC.val_crops * len(PHOTOGRAPHS["val"])


def test_the_manifest_finds_it(world: Path) -> None:
    found = index_benchmark(build_manifest(compose("eval", ["benchmark=miniature"])), world / "test", IMAGE_SUFFIXES)
    count = SPEC.test_crops * len(PHOTOGRAPHS["test"])
    assert np.bincount(found.labels).tolist() == [count, count * len(DECODERS)]
    ids, subsets = found.rows()
    assert set(found.manifest.subsets) == set(DECODERS)
    for subset in range(len(DECODERS)):
        labels = found.labels[ids[subsets == subset]]
        assert ((labels == REAL).sum(), (labels == FAKE).sum()) == (count, count)


def test_an_existing_folder_is_kept(world: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        build_world(world, PHOTOGRAPHS_FOLDER, SPEC)
    assert images(world)
