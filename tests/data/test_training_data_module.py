"""Samples depend on seed, epoch and id only; what cannot be read is counted; a resumed run sees the batches that come next."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from shard_files import structs, write_parquet, write_zip

from mirror_pl.config.build import build
from mirror_pl.config.command import compose
from mirror_pl.data.batch import Batch, Sample, collate
from mirror_pl.data.sampler import EpochSampler
from mirror_pl.data.training import TrainingDataModule, TrainingDataset
from mirror_pl.data.training_set import find_training_images
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.images import AugmentSpec, augment
from mirror_pl.scores import Status

SPEC = AugmentSpec(crop_px=24, rescale_px=(24, 80))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 reals, of which one is cut short, and 9 fakes, of which one is no image; of many sizes."""
    root = tmp_path_factory.mktemp("data")
    for label, count in (("0_real", 13), ("1_fake", 9)):
        (root / label).mkdir()
        for i in range(count):
            rng = np.random.default_rng([count, i])
            height, width = rng.integers(15, 70, 2)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / label / f"{i:02}.png")
    whole = (root / "0_real/05.png").read_bytes()
    (root / "0_real/05.png").write_bytes(whole[: len(whole) // 2])
    (root / "1_fake/03.png").write_text("no image")
    return root


def module(data: Path, **settings: object) -> TrainingDataModule:
    known: dict[str, object] = {"root": data, "batch_size": 4, "num_workers": 0, "augment": SPEC, "seed": 3}
    return TrainingDataModule(**(known | settings))  # type: ignore[arg-type]


def batches(module: TrainingDataModule, number: int) -> list[Batch]:
    loader = module.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(number)
    return list(loader)


def assert_equal(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
        assert one.flaws == other.flaws


def test_a_sample_is_the_image_augmented_by_its_own_chance(data: Path) -> None:
    images = find_training_images(root=data)
    dataset = TrainingDataset(images, SPEC, 3)
    assert len(dataset) == 22
    seen: dict[tuple[int, int], Sample] = {}
    for number in (1, 0):
        for sample_id in (20, 0, 7):
            image = Image.open(images.source(sample_id).path)
            rng = np.random.default_rng([3, number, sample_id])
            expected = augment(image, SPEC, rng, fake=sample_id >= 13)
            sample = seen[number, sample_id] = dataset[number, sample_id]
            assert sample.pixels is not None
            np.testing.assert_array_equal(sample.pixels, expected)
            assert (sample.id, sample.label, sample.group, sample.status) == (sample_id, sample_id >= 13, 0, Status.OK)
    assert any((seen[0, i].pixels != seen[1, i].pixels).any() for i in (0, 7, 20))
    other = TrainingDataset(images, SPEC, 4)
    assert any((other[0, i].pixels != seen[0, i].pixels).any() for i in (0, 7, 20))


def test_only_fakes_are_aligned(data: Path) -> None:
    images = find_training_images(root=data)
    spec = AugmentSpec(24, 1, 0, 0, 0, (24, 24), jpeg_quality=None, align_quality=10)
    for sample_id in range(22):
        got, plain = (TrainingDataset(images, s, 0)[0, sample_id].pixels for s in (spec, AugmentSpec.fixed(24)))
        if got is not None and plain is not None:
            assert (got != plain).any() == (sample_id >= 13)


def test_what_cannot_be_read_is_skipped_and_counted(data: Path) -> None:
    images = find_training_images(root=data)
    dataset = TrainingDataset(images, SPEC, 3)
    cut, no_image = images.paths.index("0_real/05.png"), images.paths.index("1_fake/03.png")
    batch = collate([dataset[0, cut], dataset[0, no_image], dataset[0, 0]])
    assert batch.ids.tolist() == [0]
    assert batch.pixels.shape == (1, 3, 24, 24)
    assert [(flaw.id, flaw.status) for flaw in batch.flaws] == [(cut, Status.TRUNCATED), (no_image, Status.UNDECODABLE)]
    assert all(flaw.reason for flaw in batch.flaws)
    everything = batches(module(data, batch_size=22), 0)
    assert len(everything) == 1
    assert len(everything[0].ids) == 20
    assert {flaw.id for flaw in everything[0].flaws} == {cut, no_image}
    assert len(collate([dataset[0, cut]]).ids) == 0


def test_workers_change_nothing(data: Path) -> None:
    for number in (0, 2):
        expected = batches(module(data), number)
        assert_equal(batches(module(data, num_workers=2), number), expected)


def test_processes_change_nothing_but_shares(data: Path) -> None:
    """The same global batches, and in them the same crops."""
    expected = batches(module(data), 1)
    shares = []
    for rank in range(2):
        part = module(data)
        root_device = torch.device("cpu")
        part.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=2,
            global_rank=rank,
            current_epoch=1,
            overfit_batches=0,
            strategy=SimpleNamespace(root_device=root_device),
        )
        shares.append(list(part.train_dataloader()))
    for whole, parts in zip(expected, zip(*shares, strict=True), strict=True):
        crops = {i: p for part in parts for i, p in zip(part.ids.tolist(), part.pixels, strict=True)}
        assert sorted(crops) == sorted(whole.ids.tolist())
        assert all(torch.equal(crops[i], p) for i, p in zip(whole.ids.tolist(), whole.pixels, strict=True))


class Recorder(L.LightningModule):
    """Trains nothing much, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, Batch]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch))
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", **(quiet | settings))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_names_the_epochs_and_resumes_inside_one(data: Path, tmp_path: Path, workers: int) -> None:
    """Resumed from what was saved after 8 steps, in the second of three epochs of 5: the same batches as without."""
    expected = [(number, i, batch) for number in range(3) for i, batch in enumerate(batches(module(data), number))]

    def check(seen: list[tuple[int, int, Batch]], expected: list[tuple[int, int, Batch]]) -> None:
        assert [entry[:2] for entry in seen] == [entry[:2] for entry in expected]
        assert_equal([entry[2] for entry in seen], [entry[2] for entry in expected])

    save = ModelCheckpoint(tmp_path, "state", every_n_train_steps=8, save_top_k=1)
    first = Recorder()
    whole = trainer(max_epochs=3, callbacks=[save], enable_checkpointing=True)
    whole.fit(first, datamodule=module(data, num_workers=workers))
    check(first.seen, expected)
    rest = module(data, num_workers=workers)
    second = Recorder()
    trainer(max_epochs=3).fit(second, datamodule=rest, ckpt_path=tmp_path / "state.ckpt")
    check(second.seen, expected[8:])


def test_settings(data: Path) -> None:
    one = TrainingDataModule(real=str(data / "0_real"), labels=[0])
    assert len(one.training_set) == 13
    assert one.training_set is one.training_set
    assert one.augment == AugmentSpec()
    several = TrainingDataModule(real=[data / "0_real"], fake=[str(data / "1_fake")], max_per_class=5, balanced=True)
    assert len(several.training_set) == 10
    for settings in ({"batch_size": 0}, {"num_workers": -1}, {"prefetch": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            module(data, **settings)
    with pytest.raises(ConfigError, match="multiple of 3"):
        shared = module(data)
        shared.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=3, global_rank=0, overfit_batches=0, strategy=SimpleNamespace(root_device=torch.device("cpu"))
        )
        shared.train_dataloader()
    with pytest.raises(DataError, match="does not exist"):
        _ = TrainingDataModule(real="no").training_set


def test_jpeg_files_decode_as_in_the_file(tmp_path: Path) -> None:
    """A real JPEG is not compressed again by alignment: the fixed crop is what the file holds."""
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)).save(buffer, "JPEG", quality=80)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    images = find_training_images([tmp_path], labels=[0])
    sample = TrainingDataset(images, AugmentSpec.fixed(30), 0)[0, 0]
    assert sample.pixels is not None
    np.testing.assert_array_equal(sample.pixels, np.array(Image.open(buffer)))


def test_shards_give_the_batches_of_files(data: Path, tmp_path: Path) -> None:
    files = [(path.relative_to(data).as_posix(), path.read_bytes()) for path in sorted(data.rglob("*.png"))]
    write_zip(tmp_path / "x.zip", files)
    rows = [(name.replace("/", "_"), int(name.startswith("1_fake")), content) for name, content in files]
    write_parquet(tmp_path / "x.parquet", {"image": structs(rows, paths=False), "label": [row[1] for row in rows]})
    write_zip(tmp_path / "flat/x.zip", [(name, content) for name, _, content in rows])
    (tmp_path / "t.csv").write_text("name,label\n" + "\n".join(f"{name},{label}" for name, label, _ in rows))
    expected = [batches(module(data), epoch) for epoch in (0, 1)]
    for settings in (
        {"root": tmp_path / "x.zip"},
        {"root": tmp_path / "x.parquet", "num_workers": 2},
        {"root": tmp_path / "flat", "labels_file": tmp_path / "t.csv"},
        {
            "root": tmp_path / "flat",
            "labels_file": {"file": str(tmp_path / "t.csv"), "path": "name", "values": {0: "real", 1: "fake"}},
        },
    ):
        for epoch in (0, 1):
            assert_equal(batches(module(data, **settings), epoch), expected[epoch])
    with pytest.raises(ConfigError, match=r"data\.labels_file: unknown key 'column'"):
        module(data, labels_file={"column": "x"})


def test_the_settings_reach_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,label\n05.png,0\n06,1\n")
    setting = f"data.labels_file={{file: {tmp_path / 't.csv'}, path: name}}"
    cfg = compose("train", ["phase=memory", f"data.root={data / '0_real'}", setting, "data.labels=[0,1]"])
    assert build(cfg.data).training_set.paths == ["05.png", "06.png"]
