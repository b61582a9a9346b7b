"""What every LightningDataModule and LightningModule of this project promises, as tests to inherit from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from mirror_pl.data.batch import Batch
from mirror_pl.detectors.checkpoint.torch_file import is_plain

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
}  # fmt: skip


class DataModuleContract(ABC):
    """Batches of the agreed form, shared out exactly, whatever sampler Lightning would rather have."""

    loaders: tuple[str, ...]

    @abstractmethod
    def data_module(self) -> pl.LightningDataModule:
        """Make one, without workers."""

    def _loaders(self, ranks: int = 1, rank: int = 0) -> dict[str, DataLoader[Batch]]:
        data = self.data_module()
        device = SimpleNamespace(root_device=torch.device("cpu"))
        module = SimpleNamespace(recipe=None)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=ranks, global_rank=rank, current_epoch=0, overfit_batches=0, strategy=device, lightning_module=module
        )
        found = {}
        for name in self.loaders:
            made = getattr(data, name)()
            found |= {f"{name} {n}": part for n, part in enumerate(made if isinstance(made, list) else [made])}
        return found

    def test_batches_are_of_the_agreed_form(self) -> None:
        for name, loader in self._loaders().items():
            batches = list(loader)
            assert len(batches) == len(loader) > 0, name
            for batch in batches:
                assert isinstance(batch, Batch)
                assert batch.pixels.dtype == torch.uint8
                assert batch.pixels.shape[0] % max(len(batch.ids), 1) == 0
                assert batch.pixels.shape[1] == 3
                assert batch.ids.dtype == batch.labels.dtype == batch.groups.dtype == torch.int64
                assert set(batch.labels.tolist()) <= {0, 1}
                lost = [flaw for flaw in batch.flaws if flaw.id not in batch.ids.tolist()]
                assert all(flaw.reason for flaw in lost)

    def test_the_same_seed_and_files_give_the_same_batches(self) -> None:
        for (name, one), two in zip(self._loaders().items(), self._loaders().values(), strict=True):
            for first, second in zip(one, two, strict=True):
                assert torch.equal(first.ids, second.ids), name
                assert torch.equal(first.pixels, second.pixels), name

    def test_lightning_leaves_the_samplers_alone(self) -> None:
        for loader in self._loaders(ranks=2).values():
            assert isinstance(loader.sampler, DistributedSampler)
            assert loader.batch_sampler is None

    def test_processes_share_without_padding_or_repetition(self) -> None:
        alone = {name: [batch.ids.tolist() for batch in loader] for name, loader in self._loaders().items()}
        for ranks in (2, 3):
            shares = [self._loaders(ranks, rank) for rank in range(ranks)]
            for name, batches in alone.items():
                found = [i for share in shares for batch in share[name] for i in batch.ids.tolist()]
                assert len(found) == len(set(found)), f"{name}: something came twice"
                assert set(found) <= {i for batch in batches for i in batch}


class ModuleContract(ABC):
    """Works in a plain Trainer, is described by plain values, and comes back from its checkpoint as it was."""

    @abstractmethod
    def module(self) -> pl.LightningModule:
        """Make one; each as the other."""

    @abstractmethod
    def data_module(self) -> pl.LightningDataModule:
        """Make what it is trained on."""

    def _fitted(self, tmp_path: Path) -> tuple[pl.LightningModule, Path]:
        one, trainer = self.module(), pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
        trainer.fit(one, datamodule=self.data_module())
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        return one, tmp_path / "x.ckpt"

    def test_hyperparameters_are_plain_values(self) -> None:
        assert self.module().hparams
        assert is_plain(dict(self.module().hparams))

    def test_exactly_what_it_says_is_trained(self, tmp_path: Path) -> None:
        before = {name: tensor.clone() for name, tensor in self.module().state_dict().items()}
        one, _ = self._fitted(tmp_path)
        trained = {id(parameter) for parameter in one.trained_parameters().values()}  # type: ignore[operator]
        names = {name for name, parameter in one.named_parameters() if id(parameter) in trained}
        changed = {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed
        assert changed <= names

    def test_it_comes_back_from_its_checkpoint(self, tmp_path: Path) -> None:
        one, path = self._fitted(tmp_path)
        content = torch.load(path, weights_only=True)
        assert {"pytorch-lightning_version", "state_dict", "hyper_parameters", "optimizer_states", "loops"} <= set(content)
        again = type(one).load_from_checkpoint(path)
        self._assert_equal(again.state_dict(), one.state_dict(), set(content["state_dict"]))
        assert dict(again.hparams) == dict(one.hparams)

    def test_a_fresh_one_takes_it_as_ckpt_path(self, tmp_path: Path) -> None:
        one, path = self._fitted(tmp_path)
        fresh, trainer = self.module(), pl.Trainer(max_epochs=1, **QUIET)  # all its epochs are done
        trainer.fit(fresh, datamodule=self.data_module(), ckpt_path=str(path))
        assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in fresh.state_dict().items())

    def _assert_equal(self, one: dict[str, Tensor], two: dict[str, Tensor], saved: set[str]) -> None:
        from mirror_pl.detectors.checkpoint.names import our_name

        for name, tensor in two.items():
            if our_name(name.removeprefix("detector.")) in saved:
                assert torch.equal(one[name], tensor), name
