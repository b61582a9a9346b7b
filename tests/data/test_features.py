"""Kept features: whole or not at all, for one identity only, and read as the images would be."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mirror_pl.data.batch import Batch, Flaw
from mirror_pl.data.features import (
    FeatureCache,
    FeatureDataset,
    FeatureShape,
    check_room,
    collate_features,
    features_folder,
    make_features,
)
from mirror_pl.data.training import TrainingDataModule
from mirror_pl.detectors.detector_config import BackboneConfig, DetectorConfig, MemoryBankConfig
from mirror_pl.errors import DataError, OutputError
from mirror_pl.images import AugmentSpec, PreprocessSpec
from mirror_pl.scores import Status

CONFIG = DetectorConfig(
    BackboneConfig("dinov3", width=8, depth=1, heads=2, mlp_width=8, patch_px=8, registers=4),
    lora=None,
    memory_bank=MemoryBankConfig(slots=16, heads=2, top_k=3),
    preprocess=PreprocessSpec(crop_px=16),
)
SHAPE = FeatureShape(images=11, tokens=8, width=8)
FIXED = AugmentSpec.fixed(16)


@pytest.fixture
def data(tmp_path: Path) -> TrainingDataModule:
    """Ten reals, and one file between them that is no image."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    (images / "3b.png").write_text("no image")
    return TrainingDataModule(images, labels=[0], batch_size=4, num_workers=0, augment=FIXED)


def tokens_of(batch: Batch) -> Tensor:
    """A backbone's stand-in: numbers that tell the images apart, ``(B, 8, 8)``."""
    return batch.pixels[:, 0, :8, :8].float() / 255


def make(
    folder: Path, data: TrainingDataModule, tokens: Callable[[Batch], Tensor] = tokens_of, **options: object
) -> list[str]:
    said: list[str] = []
    known: dict[str, object] = {"still_the_same": lambda: True, "say": said.append}
    make_features(folder, SHAPE, data.every_image(), tokens, **(known | options))  # type: ignore[arg-type]
    return said


def test_the_shape_is_known_before_anything_is_computed() -> None:
    assert FeatureShape.of(CONFIG, 11) == SHAPE
    assert FeatureShape.of(replace(CONFIG, drop_registers=True), 11).tokens == 4
    assert str(FeatureShape(118_287, 200, 1280)) == "118,287 images x 200 tokens x 1280 x 4 bytes = 121.1 GB"


def test_batches_are_those_of_the_images(tmp_path: Path, data: TrainingDataModule) -> None:
    pixels = list(data.train_dataloader())
    make(tmp_path / "features", data)
    data.use_features(FeatureCache(tmp_path / "features"))
    kept = list(data.train_dataloader())
    assert len(kept) == len(pixels)
    for one, other in zip(kept, pixels, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.groups, other.groups)
        assert one.tokens is not None
        assert torch.equal(one.tokens, tokens_of(other))
        assert one.flaws == other.flaws
        assert one.pixels.numel() == 0
    assert [flaw.status for batch in data.every_image() for flaw in batch.flaws] == [Status.UNDECODABLE]


def test_a_batch_of_unreadable_images_is_empty(data: TrainingDataModule) -> None:
    flaws = {i: Flaw(i, Status.UNDECODABLE, "-") for i in range(11)}
    dataset = FeatureDataset(data.training_set, SimpleNamespace(flaws=flaws))  # type: ignore[arg-type]
    batch = collate_features([dataset[0, 2], dataset[5, 7]])
    assert len(batch.ids) == len(batch.tokens) == 0  # type: ignore[arg-type]
    assert [flaw.id for flaw in batch.flaws] == [2, 7]


def test_read_in_another_process(tmp_path: Path, data: TrainingDataModule) -> None:
    make(tmp_path / "features", data)
    cache = FeatureCache(tmp_path / "features")
    pickled = pickle.dumps(cache)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).tokens(5), cache.tokens(5))


def cut_short(folder: Path) -> None:
    os.truncate(folder / "tokens.npy", (folder / "tokens.npy").stat().st_size - 1)


def make_longer(folder: Path) -> None:
    with (folder / "tokens.npy").open("ab") as file:
        file.write(b"1")


def other_numbers(folder: Path) -> None:
    np.save(folder / "tokens.npy", np.zeros(tuple(SHAPE)))


def no_header(folder: Path) -> None:
    (folder / "tokens.npy").write_bytes(bytes(3000))


def no_features(folder: Path) -> None:
    (folder / "tokens.npy").unlink()


def no_record(folder: Path) -> None:
    (folder / "features.json").unlink()


def other_record(folder: Path) -> None:
    (folder / "features.json").write_text(json.dumps({"shape": [10, 8, 8], "flaws": []}))


@pytest.mark.parametrize("damage", [cut_short, make_longer, other_numbers, no_header, no_features, no_record, other_record])
def test_what_is_damaged_is_named(tmp_path: Path, data: TrainingDataModule, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "features"
    make(folder, data)
    damage(folder)
    with pytest.raises(DataError, match=rf"phase\.feature_cache: {folder} is damaged .* delete that folder"):
        FeatureCache(folder)


def test_nothing_is_left_of_what_fails(tmp_path: Path, data: TrainingDataModule) -> None:
    folder = tmp_path / "caches" / "features"

    def fail(batch: Batch) -> Tensor:
        if 8 in batch.ids:
            raise KeyboardInterrupt
        return tokens_of(batch)

    with pytest.raises(KeyboardInterrupt):
        make(folder, data, fail)
    with pytest.raises(DataError, match="images have changed while"):
        make(folder, data, still_the_same=lambda: False)
    assert list(folder.parent.iterdir()) == []
    folder.parent.rmdir()
    folder.parent.write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        make(folder, data)


def test_what_another_run_made_meanwhile_stays(tmp_path: Path, data: TrainingDataModule) -> None:
    folder = tmp_path / "features"

    def made_meanwhile() -> bool:
        make(folder, data)
        return True

    make(folder, data, lambda batch: tokens_of(batch) + 1, still_the_same=made_meanwhile)
    assert FeatureCache(folder).tokens(0).max() <= 1


def test_progress_is_told(tmp_path: Path, data: TrainingDataModule) -> None:
    said = make(tmp_path / "features", data, every_s=0)
    assert said[0].startswith("Features of 4/11 images, ")
    assert said[-1].endswith("0:00:00 left")


def test_too_full_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(tmp_path / "caches" / "features", SHAPE)
    (tmp_path / "caches" / ".features-1234.x.tmp").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SHAPE.bytes - 1))
    with pytest.raises(
        OutputError, match=r"11 images x 8 tokens x 8 x 4 bytes = 0\.0 MB do not fit .*\.features-1234\.x\.tmp"
    ):
        check_room(tmp_path / "caches" / "features", SHAPE)


def test_another_identity_has_another_folder(tmp_path: Path, data: TrainingDataModule) -> None:
    def folder(
        spec: AugmentSpec = FIXED, config: DetectorConfig = CONFIG, weights: str = "w", precision: str = "32"
    ) -> Path:
        return features_folder(tmp_path, data.training_set, spec, config, weights, precision)

    image = data.training_set.source(2).path
    status = image.stat()
    assert folder() == folder()
    others = [
        folder(spec=replace(FIXED, align_quality=96)),
        folder(config=replace(CONFIG, drop_registers=True)),
        folder(config=replace(CONFIG, backbone=replace(CONFIG.backbone, depth=2))),
        folder(weights="v"),
        folder(precision="bf16-mixed"),
    ]
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    others.append(folder())
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    content = image.read_bytes()
    image.write_bytes(content + b" ")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    others.append(folder())
    image.unlink()
    others.append(folder())
    image.write_bytes(content)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len({folder(), *others}) == 1 + len(others)
    bank = replace(CONFIG, memory_bank=MemoryBankConfig(slots=32, heads=4, top_k=5))
    assert folder(config=bank) == folder(), "features serve banks of any size"
