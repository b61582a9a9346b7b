"""Phase 1: a memory bank learns to rebuild the features of real images from a frozen backbone (paper, Eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mirror_pl.data.batch import Batch
from mirror_pl.detectors.checkpoint import BackboneSource, bank_content, load_backbone, load_bank, read_checkpoint
from mirror_pl.detectors.detector_config import DetectorConfig
from mirror_pl.detectors.exact import exact_float32
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.detectors.untrained import untrained_detector
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.modules.bank_init import frozen_tokens
from mirror_pl.modules.objectives import (
    CosineByEpoch,
    LossForm,
    check_form,
    orthogonality_floor,
    orthogonality_loss,
    reconstruction_loss,
)
from mirror_pl.modules.trainable import OptimizerFactory, SchedulerFactory, TrainableModule, published_adamw


class MemoryBankModule(TrainableModule):
    """Trains the memory bank of a detector; backbone, normalisation and head stay as they are.

    Logs besides the loss, at each step: ``train/reconstruction``, the mean squared error per element; ``train/explained``,
    the share of the tokens' variance that it leaves out (1 is all of it); ``train/orthogonality``, whose least value is
    ``train/orthogonality_floor``. At the end of each epoch, over all processes: ``train/dead_slots``, slots that no token
    used in it, and ``train/usage_entropy``, the entropy of the slots' shares in all weights, from 0 (one slot) to 1 (all
    alike); in an epoch that a stopped training goes on with, since then.

    In a validation it logs ``val/explained`` and ``val/reconstruction``.

    Args:
        detector: Its bank is trained, in place; `untrained_detector` makes one around a backbone.
        optimizer: Makes the optimizer; None is the published AdamW.
        scheduler: Makes the schedule; None is the published half cosine over the epochs.
        orthogonality: Weight of the orthogonality loss.
        loss_form: "released" or "paper"; see `reconstruction_loss`.
        weights: What tells the backbone's weights from others; a checkpoint says so, and Phase 2 refuses others.
        backbone: The folder that they come from.
        seed: Nothing is drawn here, but by the data.

    Raises:
        ConfigError: If a number is out of range, or there is no such form.
    """

    detector: MirrorDetector
    spares_vectors: ClassVar[bool] = False

    def __init__(
        self,
        detector: MirrorDetector,
        *,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        orthogonality: float = 0.01,
        loss_form: LossForm = "released",
        weights: str | None = None,
        backbone: BackboneSource | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            detector, optimizer or published_adamw(lr=1e-4, weight_decay=1e-4), scheduler or CosineByEpoch, backbone, seed
        )
        if not 0 <= orthogonality < float("inf"):
            raise ConfigError(f"orthogonality must be 0 or more, got {orthogonality}")
        check_form(loss_form)
        self.orthogonality = orthogonality
        self.loss_form = loss_form
        self.weights = weights or self.weights
        slots, width = detector.memory_bank.memory.shape
        self.floor = orthogonality_floor(slots, width, loss_form)
        self.usage = torch.zeros(slots)  # no buffer: DistributedDataParallel would overwrite it with the first process's
        self.save_hyperparameters(
            {
                "detector": detector.config.to_dict(),
                "weights": self.weights,
                "backbone": None if backbone is None else backbone.to_dict(),
                "orthogonality": orthogonality,
                "loss_form": loss_form,
                "seed": seed,
            }
        )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no map_location: the Trainer moves it; all or nothing: no strict
        cls, checkpoint_path: str | Path, *, backbone_folder: str | Path | None = None, **settings: Any
    ) -> MemoryBankModule:
        """Rebuild a module from a checkpoint of its own, around the backbone that it was trained with. Loaded safely.

        Args:
            checkpoint_path: The file.
            backbone_folder: Where the backbone's weights are, if they have moved since it was written.
            settings: Of this class, in place of those that the checkpoint says.

        Raises:
            CheckpointError: If the file is damaged or of another kind, or the backbone another one.
            ConfigError: If nothing says where the backbone is.
        """
        path = Path(checkpoint_path)
        saved = dict(read_checkpoint(path).hyper_parameters)
        if "detector" not in saved or "orthogonality" not in saved:
            raise CheckpointError(f"checkpoint: {path} is none of a MemoryBankModule; a bank alone is read by load_bank")
        recorded = saved.pop("backbone", None)
        folder = backbone_folder or (recorded or {}).get("path")
        if folder is None:
            raise ConfigError(f"{path} says nothing of where its backbone lies; give backbone_folder=FOLDER")
        source, backbone = BackboneSource.of(Path(folder)), load_backbone(Path(folder))
        config = DetectorConfig.from_dict(saved.pop("detector"))
        bank = load_bank(path, backbone.config, source.sha256)
        detector = untrained_detector(config, backbone, saved.get("seed", 0), bank.bank)
        return cls(detector, **{**saved, "backbone": source, **settings})

    def train(self, mode: bool = True) -> MemoryBankModule:
        """Set train or eval mode of the bank; the frozen parts stay in eval mode."""
        super().train(mode)
        self.detector.eval()
        self.detector.memory_bank.train(mode)
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The bank, by this project's names."""
        return {f"memory_bank.{name}": parameter for name, parameter in self.detector.memory_bank.named_parameters()}

    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return reconstruction plus weighted orthogonality, and what they are made of."""
        bank = self.detector.memory_bank
        tokens = frozen_tokens(self.detector, batch, batch.ids.device)
        evidence = bank.reconstruct(tokens)
        with exact_float32(tokens.device):  # in bfloat16 the orthogonality of a good bank is nothing but rounding
            reconstruction = reconstruction_loss(tokens, evidence.attended, self.loss_form)
            orthogonality = orthogonality_loss(bank.memory, self.loss_form)
            loss = reconstruction + self.orthogonality * orthogonality
        if self.training:
            self.usage = self.usage.to(evidence.usage) + evidence.usage
        error = (evidence.attended - tokens).detach().square().mean()
        return loss, {
            "reconstruction": error,
            "explained": 1 - error / tokens.var(dim=(0, 1), correction=0).mean(),
            "orthogonality": orthogonality.detach(),
            "orthogonality_floor": torch.tensor(self.floor),
        }

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``val/explained`` and ``val/reconstruction`` of images that were not trained on; means over batches."""
        if len(batch.ids):
            logged = self.loss_of(batch)[1]
            figures = {f"val/{name}": logged[name] for name in ("explained", "reconstruction")}
            self.log_dict(figures, batch_size=len(batch.ids), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Log how the slots were used in the epoch."""
        usage = self.trainer.strategy.reduce(self.usage, reduce_op="sum") if self.trainer.world_size > 1 else self.usage
        shares = usage / usage.sum().clamp_min(1e-12)
        entropy = -torch.xlogy(shares, shares).sum() / torch.tensor(float(len(shares))).log()
        self.log_dict({"train/dead_slots": (usage == 0).sum().float(), "train/usage_entropy": entropy}, sync_dist=True)
        self.usage = torch.zeros_like(self.usage)

    def file_content(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the bank as `load_bank` takes it."""
        return bank_content(self.detector.config, tensors, self.weights, {**self.origin, **self.progress()})

    def may_lack(self, name: str) -> bool:
        """Whether it is not the bank's."""
        return not name.startswith("memory_bank.")
