"""A prediction as a row of the output: what stands in it, in which order, and what all rows come to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from mirror_pl.abstention import UNSURE, VERDICTS
from mirror_pl.detectors import Prediction
from mirror_pl.labels import FAKE
from mirror_pl.prediction.inputs import Item
from mirror_pl.texts import storable

Row: TypeAlias = Mapping[str, Any]

COLUMNS: Final = ("image_path", "pred", "logit", "status", "reason", "crops")
"""Of every row; after them come `ADDED`, and the evidence, a number each, under the detector's names for it."""
ADDED: Final = ("raw_logit", "verdict", "origin", "origin_detail")
"""The first two of rows of a calibrated detector, ``verdict`` where it may abstain: ``real``, ``fake`` or ``unsure``; the
others of ``provenance=true``, what the file says of its own origin."""
_EXAMPLES: Final = 5


def row_of(item: Item, prediction: Prediction) -> dict[str, Any]:
    """Return the row of a picture: ``pred`` is p_fake, ``crops`` the logits of its crops; None where there is no number."""
    added = {"raw_logit": number(prediction.raw_logit), "verdict": prediction.banded}
    if prediction.origin is not None:
        added |= {"origin": prediction.origin.says, "origin_detail": storable(prediction.origin.detail)}
    return {
        "image_path": storable(item.path),
        "pred": number(prediction.p_fake),
        "logit": number(prediction.logit),
        "status": prediction.status,
        "reason": storable(prediction.reason),
        "crops": [number(score.logit) for score in prediction.crops],
        **{name: value for name, value in added.items() if value is not None},
        **{name: number(value) for name, value in prediction.evidence.items()},
    }


def number(value: float | None) -> float | None:
    """Return a float32 as the shortest float that stands for it: 0.1 and not 0.10000000149."""
    return float(str(np.float32(value))) if value is not None and math.isfinite(value) else None


@dataclass
class Tally:
    """What rows come to.

    Attributes:
        statuses: Rows by status.
        evidence: Names of the evidence that is in any of them, in their order.
        unread: The first few paths without a score, with the reasons.
        fakes: Rows decided fake: with a score above one half, or by the band of a detector that may abstain.
        unsure: Rows with a score and no decision; None where the detector does not abstain.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    evidence: dict[str, None] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    fakes: int = 0
    unsure: int | None = None

    def add(self, row: Row) -> None:
        """Count a row."""
        self.statuses[row["status"]] += 1
        if row["pred"] is None:
            if len(self.unread) < _EXAMPLES:
                self.unread.append((row["image_path"], row["reason"]))
            return
        verdict = row.get("verdict")
        self.fakes += row["logit"] > 0 if verdict is None else verdict == VERDICTS[FAKE]
        if verdict is not None:
            self.unsure = (self.unsure or 0) + (verdict == VERDICTS[UNSURE])
        self.evidence.update((name, None) for name in row if name not in COLUMNS and name not in self.evidence)

    @property
    def total(self) -> int:
        """All rows."""
        return self.statuses.total()

    @property
    def scored(self) -> int:
        """Rows with a score."""
        return self.statuses["ok"] + self.statuses["truncated"]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a table of the rows."""
        return (*COLUMNS, *self.evidence)
