"""Keeps an evaluation's scores: on the device until it is time, then in a part on the disk, at last from all processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from mirror_pl.data.batch import Batch, Flaw
from mirror_pl.data.benchmark import BenchmarkDataModule, of_all
from mirror_pl.errors import ConfigError, OutputError
from mirror_pl.modules.detector import DetectorModule
from mirror_pl.scores import Status
from mirror_pl.scores.parts import PartialScores, join, read_parts
from mirror_pl.stopping import take_signals
from mirror_pl.store import Store


@dataclass(frozen=True)
class PartsOfRun:
    """Where a run keeps scores before it is complete.

    Attributes:
        folder: In which each process adds parts.
        key: 32 bytes that tell the run from others.
        every_s: Seconds from one writing to the next; a killed process loses no more than that. 0 writes every batch.
    """

    folder: Path
    key: bytes
    every_s: float = 10.0

    @property
    def store(self) -> Store:
        """Where they are written."""
        return Store(self.folder, self.key)


@dataclass(frozen=True)
class Predictions:
    """What a detector says of every sample of a data module, whose order the columns share.

    Attributes:
        logits: ``(S,)`` float32; not finite where there is no score.
        p_fake: ``(S,)`` float32; likewise.
        statuses: ``(S,)`` int8 of `Status`.
        flaws: Images that were not read as they should have been, by id.
        raw_logits: ``(S,)`` float32, the detector's own, where the others are calibrated; else None.
        resumed: Of the rows, those that an earlier try of the run had scored.
        most_together: Images that were scored at a time, where whole batches did not fit into memory; else None.
    """

    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    statuses: NDArray[np.int8]
    flaws: list[Flaw]
    resumed: int = 0
    most_together: int | None = None
    raw_logits: NDArray[np.float32] | None = None

    def every(self, step: int, place: int) -> Predictions:
        """Return each `step`-th from `place` on: what is said under one condition, or by one of several heads."""
        flaws = [flaw._replace(id=flaw.id // step) for flaw in self.flaws if flaw.id % step == place]
        return replace(
            self,
            logits=self.logits[place::step],
            p_fake=self.p_fake[place::step],
            statuses=self.statuses[place::step],
            raw_logits=None if self.raw_logits is None else self.raw_logits[place::step],
            flaws=flaws,
            resumed=self.resumed // step,
        )


class ScoreKeeper(L.Callback):
    """Keeps what a `DetectorModule` says of each image of a `BenchmarkDataModule` in `trainer.test`, durably.

    Before the first batch it reads what an earlier try of the same run has left, and has the data module leave that out.

    Args:
        parts: Where to keep scores meanwhile; None keeps them in memory alone. That of the first process counts.
    """

    def __init__(self, parts: PartsOfRun | None = None) -> None:
        self.parts = parts
        self._before = PartialScores.none()
        self._gathered: Sequence[PartialScores] = ()
        self._mine: list[PartialScores] = []
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._flaws: list[Flaw] = []
        self._rank = 0
        self._written = time.monotonic()
        self._rows, self._heads = 0, 1
        self._most_together: int | None = None

    @property
    def predictions(self) -> Predictions:
        """What was said of every image, from the end of the test on; in every process the same.

        Raises:
            RuntimeError: If a sample came back twice or not at all, which would be a defect of ours.
        """
        found = assemble([self._before, *self._gathered], self._rows)
        return replace(found, resumed=len(self._before), most_together=self._most_together)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out what is scored already.

        Raises:
            ConfigError: If something else is tested than a benchmark with a detector.
        """
        if stage != "test":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, BenchmarkDataModule) or not isinstance(pl_module, DetectorModule):
            raise ConfigError("ScoreKeeper: keeps the scores of a DetectorModule on a BenchmarkDataModule, nothing else's")
        self._heads = pl_module.num_heads  # a row per sample and head, whose id is sample * heads + head
        self._rows, self._mine, self._gathered = data.num_samples * self._heads, [], ()
        self.parts = trainer.strategy.broadcast(self.parts)
        if self.parts is None:
            return
        self._rank = trainer.global_rank
        # Nodes may or may not share the folder; the processes of one node do.
        found = read_parts(self.parts.store) if trainer.local_rank == 0 else PartialScores.none()
        before = join(list(of_all(found, trainer))).once()
        samples, heads = np.unique(before.ids // self._heads, return_counts=True)
        self._before = before.at(data.skip(samples[heads == self._heads])[before.ids // self._heads])

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let what an earlier try has scored count in what the module logs."""
        take_signals()
        if trainer.is_global_zero and len(self._before):
            assert isinstance(pl_module, DetectorModule)
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            first = self._before.at(self._before.ids % self._heads == 0)
            columns = (first.logits, *data.labels_of(first.ids // self._heads))
            logits, labels, groups = (torch.from_numpy(column).to(pl_module.device) for column in columns)
            pl_module.count(logits, labels, groups)

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
        heads = torch.arange(self._heads, device=batch.ids.device)
        ids = (batch.ids[:, None] * self._heads + heads).flatten()
        self._pending.append((ids, torch.stack([outputs["logit"], outputs["p_fake"]])))
        for flaw in batch.flaws:
            self._flaws += [flaw._replace(id=flaw.id * self._heads + head) for head in range(self._heads)]
        if self.parts is not None and time.monotonic() - self._written >= self.parts.every_s:
            self._write()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rest, and gather."""
        self._write()
        self._gathered = of_all(join(self._mine), trainer)
        assert isinstance(pl_module, DetectorModule)
        self._most_together = pl_module.scorer.most_together

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what can be saved."""
        if self.parts is not None:
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
        if self.parts is not None:
            new.keep(self.parts.store, self._rank)
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


def assemble(shares: Sequence[PartialScores], size: int) -> Predictions:
    """Put shares into the index's order, and check that every sample is there once."""
    logits, p_fake = np.full((2, size), np.nan, np.float32)
    statuses = np.full(size, Status.OK, np.int8)
    seen = np.zeros(size, np.int64)
    reasons: dict[int, str] = {}
    for share in shares:
        logits[share.ids], p_fake[share.ids], statuses[share.ids] = share.logits, share.p_fake, share.statuses
        np.add.at(seen, share.ids, 1)
        reasons |= share.reasons
    if not (seen == 1).all():
        raise RuntimeError(
            f"evaluation: of {size} samples {int((seen == 0).sum())} came back without a verdict and "
            f"{int((seen > 1).sum())} more than once; nothing was written"
        )
    flaws = [Flaw(i, Status(int(statuses[i])), reason) for i, reason in sorted(reasons.items())]
    lost = np.flatnonzero(~np.isfinite(logits) & (statuses != Status.UNDECODABLE))
    statuses[lost] = Status.NON_FINITE
    flaws = sorted([*flaws, *(Flaw(int(i), Status.NON_FINITE, f"the detector's logit is {logits[i]}") for i in lost)])
    return Predictions(logits, p_fake, statuses, flaws)
