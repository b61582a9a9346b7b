"""The contracts of `lightning_contracts`, for every module and data module there is."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
from golden_set import SMALL
from lightning_contracts import QUIET, DataModuleContract, ModuleContract

from mirror_pl import BenchmarkDataModule, DetectorModule, MemoryBankModule, TrainingDataModule, load_detector
from mirror_pl.detectors import DetectorConfig, HeadConfig, LoraConfig, MemoryBankConfig, MirrorDetector
from mirror_pl.detectors.checkpoint import BackboneSource, load_backbone
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import CheckpointError
from mirror_pl.images import AugmentSpec, PreprocessSpec

pytestmark = pytest.mark.filterwarnings("ignore")


class TestBenchmarkDataModule(DataModuleContract):
    loaders = ("test_dataloader", "val_dataloader", "predict_dataloader")

    def data_module(self) -> pl.LightningDataModule:
        spec = PreprocessSpec(crop_px=32)
        return BenchmarkDataModule("wildrf", SMALL.data_root, batch_size=4, num_workers=0, spec=spec)

    def test_every_image_comes_once(self) -> None:
        for ranks in (1, 2, 3, 9):
            loaders = [self._loaders(ranks, rank) for rank in range(ranks)]
            for name in loaders[0]:
                found = [i for share in loaders for batch in share[name] for i in batch.ids.tolist()]
                assert sorted(found) == list(range(21))


class TestTrainingDataModule(DataModuleContract):
    loaders = ("train_dataloader",)

    def data_module(self) -> pl.LightningDataModule:
        return TrainingDataModule(
            root=SMALL.data_root / "WildRF", batch_size=6, num_workers=0, augment=AugmentSpec.fixed(32)
        )


class TestTrainingDataModuleWithFewSamplesPerProcess(TestTrainingDataModule):
    def data_module(self) -> pl.LightningDataModule:
        folder = SMALL.data_root / "WildRF/test/reddit"
        return TrainingDataModule(root=folder, batch_size=6, num_workers=0, augment=AugmentSpec.fixed(32), balanced=True)


class OfDetector(ModuleContract):
    def data_module(self) -> pl.LightningDataModule:
        return TrainingDataModule(root=SMALL.data_root / "WildRF", batch_size=6, num_workers=0)


class TestPublishedDetector(OfDetector):
    def module(self) -> pl.LightningModule:
        return DetectorModule(load_detector(SMALL.checkpoint, merge=False), reference_batch=None, seed=2)


class TestMergedDetector(OfDetector):
    def module(self) -> pl.LightningModule:
        return DetectorModule(load_detector(SMALL.checkpoint), reference_batch=None)


def fresh(bank: bool) -> tuple[MirrorDetector, BackboneSource]:
    backbone = load_backbone(SMALL.backbone_path)
    head = HeadConfig() if bank else HeadConfig(inputs=("cls",))
    config = DetectorConfig(
        backbone.config,
        lora=None if bank else LoraConfig(2, 4.0),
        memory_bank=MemoryBankConfig(48, 4, 6) if bank else None,
        head=head,
    )
    return untrained_detector(config, backbone, seed=0), BackboneSource.of(SMALL.backbone_path)


class TestDirectDetectorWhoseBackboneStaysInItsFolder(OfDetector):
    def module(self) -> pl.LightningModule:
        detector, source = fresh(bank=False)
        return DetectorModule(detector, backbone=source, reference_batch=None)

    def test_the_checkpoint_is_without_the_backbone(self, tmp_path: Path) -> None:
        _, path = self._fitted(tmp_path)
        assert path.stat().st_size < SMALL.checkpoint.stat().st_size

    def test_another_backbone_is_refused(self, tmp_path: Path) -> None:
        _, path = self._fitted(tmp_path)
        detector, source = fresh(bank=False)
        for other in (None, BackboneSource(source.path, "0" * 64)):
            with pytest.raises(CheckpointError, match=f"goes with the backbone {source.sha256}"):
                pl.Trainer(**QUIET).fit(DetectorModule(detector, backbone=other), self.data_module(), ckpt_path=path)


class TestMemoryBank(OfDetector):
    def module(self) -> pl.LightningModule:
        detector, source = fresh(bank=True)
        return MemoryBankModule(detector, backbone=source)

    def data_module(self) -> pl.LightningDataModule:
        return TrainingDataModule(root=SMALL.data_root / "WildRF", batch_size=6, num_workers=0, labels=[0])
