"""Keeps an evaluation's scores: on the device until it is time, then in a part on the disk, at last from all processes."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch

from mirror_pl.errors import DataError, OutputError
from mirror_pl.experiment.batch import Batch, Flaw
from mirror_pl.experiment.benchmark_data_module import BenchmarkDataModule
from mirror_pl.experiment.detector_module import DetectorModule
from mirror_pl.scores import Status
from mirror_pl.scores.parts import PartialScores, PartWriter, join, read_parts

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class PartsOfRun:
    """Where a run keeps scores before it is complete.

    Attributes:
        folder: In which each process has a part.
        key: 32 bytes that tell the run from others.
        every_s: Seconds from one writing to the next; a killed process loses no more than that. 0 writes every batch.
    """

    folder: Path
    key: bytes
    every_s: float = 10.0


class ScoreKeeper(L.Callback):
    """Takes what a `DetectorModule` says of each batch.

    Before the first batch it reads what an earlier try of the same run has left, and has the data module leave that out.

    Args:
        data: What is scored.
        parts: Where to keep scores meanwhile; None keeps them in memory alone. That of the first process counts.

    Attributes:
        before: What an earlier try had scored.
        gathered: What each process has scored, from the end of the test on; in every process the same.
    """

    def __init__(self, data: BenchmarkDataModule, parts: PartsOfRun | None) -> None:
        self.data = data
        self.parts = parts
        self.before = PartialScores.none()
        self.gathered: list[PartialScores] = []
        self._mine: list[PartialScores] = []
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._flaws: list[Flaw] = []
        self._writer: PartWriter | None = None
        self._written = time.monotonic()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See that all processes see the same files, and find out what is scored already."""
        if len(set(_of_all(self.data.index.fingerprint() if trainer.world_size > 1 else "", trainer))) > 1:
            raise DataError("data_root: the processes see different files; let copying finish, then start again")
        self.parts = trainer.strategy.broadcast(self.parts)
        if self.parts is None:
            return
        self._writer = PartWriter(self.parts.folder, self.parts.key, trainer.global_rank)
        # Nodes may or may not share the folder; the processes of one node do.
        found = read_parts(self.parts.folder, self.parts.key) if trainer.local_rank == 0 else PartialScores.none()
        before = join(_of_all(found, trainer)).once()
        self.before = before.at(self.data.skip(before.ids)[before.ids])
        if trainer.is_global_zero:
            assert isinstance(pl_module, DetectorModule)
            self._count(pl_module)

    def _count(self, module: DetectorModule) -> None:
        """Let what an earlier try has scored count in what the module logs."""
        scored = self.before.at(self.before.statuses != Status.UNDECODABLE)
        index = self.data.index
        columns = (scored.logits > 0, index.labels[scored.ids], index.group_ids[scored.ids])
        module.balanced_accuracy.update(*(torch.from_numpy(column) for column in columns))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the scores of a batch, and write if it is time."""
        # Left on the device: fetching them now would make the host wait for every batch.
        self._pending.append((batch.ids, torch.stack([outputs["logit"], outputs["p_fake"]])))
        self._flaws.extend(batch.flaws)
        stopped = trainer.received_sigterm
        if stopped or (self.parts is not None and time.monotonic() - self._written >= self.parts.every_s):
            self._write()
        if stopped:
            raise SystemExit(128 + 15)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rest, and gather."""
        self._write()
        self.gathered = _of_all(join(self._mine), trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what can be saved."""
        if self._writer is not None:
            with suppress(OutputError, RuntimeError):  # the disk or the device may be the very reason
                self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if not self._pending:
            return
        ids = torch.cat([ids for ids, _ in self._pending]).cpu().numpy()
        logits, p_fake = torch.cat([scores for _, scores in self._pending], dim=1).cpu().numpy()
        new = _with_flaws(ids, logits, p_fake, self._flaws)
        self._pending, self._flaws = [], []
        if self._writer is not None:
            self._writer.append(new)
        self._mine.append(new)


def _with_flaws(ids: Any, logits: Any, p_fake: Any, flaws: list[Flaw]) -> PartialScores:
    lost = [flaw for flaw in flaws if flaw.status == Status.UNDECODABLE]
    nothing = np.full(len(lost), np.nan, np.float32)
    all_ids = np.concatenate([ids, np.array([flaw.id for flaw in lost], np.int64)])
    statuses = np.full(len(all_ids), Status.OK, np.int8)
    places = {int(image): place for place, image in enumerate(all_ids)}
    for flaw in flaws:
        statuses[places[flaw.id]] = flaw.status
    reasons = {flaw.id: flaw.reason for flaw in flaws}
    return PartialScores(all_ids, statuses, np.concatenate([logits, nothing]), np.concatenate([p_fake, nothing]), reasons)


def _of_all(mine: Thing, trainer: L.Trainer) -> list[Thing]:
    """Return what each process has, in the order of their ranks."""
    if trainer.world_size == 1:
        return [mine]
    everybodys: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everybodys, mine)
    return everybodys
