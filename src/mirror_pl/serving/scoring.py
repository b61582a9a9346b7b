"""From files that strangers send to predictions, within limits; what the page and the service share. Knows no HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from mirror_pl.detectors import CropPolicy, Detector, Prediction
from mirror_pl.detectors.contract import device_turn
from mirror_pl.errors import LostProcessError
from mirror_pl.prediction import Item, Limits, pictures_at_once, score, workers_of
from mirror_pl.prediction.engine import Batch

_START: Final = "forkserver" if sys.platform != "win32" else None
"""How decoding processes are started, see `prediction.decoding`: other threads of a server may hold locks."""
_LOST: Final = "the system ended the process that decoded it, as it does when memory runs out"


@dataclass(frozen=True)
class Scorer:
    """A detector, and within which limits it scores.

    Attributes:
        detector: In eval mode, on its device.
        name: What it is called.
        policy: Which crops are scored, and how they become one score.
        batch_size: Crops scored together, at most.
        num_workers: Processes that decode, at most; None is one per core.
        precision: Of the backbone, by Lightning's names.
        max_megapixels: A file that declares more is refused before it is decoded.
        miniature: Whether the detector is the one that is shipped with the package.
    """

    detector: Detector
    name: str
    policy: CropPolicy
    batch_size: int = 16
    num_workers: int | None = None
    precision: str = "32-true"
    max_megapixels: float = 100.0
    miniature: bool = False

    @property
    def at_once(self) -> int:
        """How many pictures are scored together, at most."""
        return pictures_at_once(self.batch_size, self.policy)

    def score(
        self,
        items: Iterable[Item],
        policy: CropPolicy | None = None,
        on_batch: Callable[[Batch], None] | None = None,
        *,
        with_origin: bool = False,
    ) -> Iterator[tuple[Item, Prediction]]:
        """Score items in order, as `mirror_pl.predict` does: one that hangs or crashes its decoder costs itself a score.

        Args:
            items: What to score.
            policy: In place of the scorer's own.
            on_batch: See `prediction.score`.
            with_origin: Likewise.
        """
        left = list(items)
        with device_turn(self.detector):
            try:
                for found in score(
                    list(left),
                    self.detector,
                    policy=policy or self.policy,
                    batch_size=self.batch_size,
                    num_workers=min(len(left), workers_of(self.num_workers)),
                    precision=self.precision,
                    limits=Limits(self.max_megapixels),
                    with_origin=with_origin,
                    start=_START,
                    on_batch=on_batch,
                ):
                    del left[0]
                    yield found
            except LostProcessError:  # a server goes on
                for item in left:
                    yield item, Prediction(None, None, "undecodable", _LOST)
