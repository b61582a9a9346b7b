"""Verdicts: on a batch of images, and on a single picture, where there may be a reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from mirror_pl.images.crops import Crop
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL


class Verdict(NamedTuple):
    """The decision on a batch of images and what it rests on.

    Attributes:
        logit: ``(B,)`` float32; above 0 means fake. The decision is its sign.
        p_fake: ``(B,)`` float32 in [0, 1], ``sigmoid(logit)``.
        evidence: Named tensors whose first axis is the batch; which ones depends on the detector.
    """

    logit: Tensor
    p_fake: Tensor
    evidence: Mapping[str, Tensor]


@dataclass(frozen=True)
class CropScore:
    """One crop of an image, and the detector's answer to it.

    Attributes:
        crop: Where it is.
        logit: Above 0 means fake.
    """

    crop: Crop
    logit: float


@dataclass(frozen=True)
class Prediction:
    """The verdict on an image, or the reason why there is none.

    Attributes:
        logit: Above 0 means fake; None without a verdict. Calibrated, where the detector has a calibration.
        p_fake: In [0, 1], the sigmoid of the logit; None without a verdict.
        status: ``ok``; ``truncated``, decoded as far as the file goes, and scored; ``undecodable``; ``non_finite``, when the
            detector's answer is NaN or infinite.
        reason: Why the status is not ``ok``, in one line; else empty.
        size: Width and height of the decoded image, in pixels; None where there is none.
        crops: What it rests on, in the order of `plan_crops`.
        evidence: Means over the crops of what else the detector says in single numbers, such as ``entropy`` and
            ``max_weight``, and of the length of ``mean_residual``.
        raw_logit: The detector's own, where `logit` is calibrated; else None.
        banded: ``real``, ``fake`` or ``unsure``, where the detector may abstain; else None.
    """

    logit: float | None
    p_fake: float | None
    status: str
    reason: str = ""
    size: tuple[int, int] | None = None
    crops: tuple[CropScore, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)
    raw_logit: float | None = None
    banded: str | None = None

    @property
    def verdict(self) -> str | None:
        """``real`` or ``fake``, by the sign of the logit, or what the band says, ``unsure`` too; None without a score."""
        if self.logit is None:
            return None
        return self.banded or LABEL_NAMES[FAKE if self.logit > 0 else REAL]

    @property
    def is_fake(self) -> bool | None:
        """The decision; None without one."""
        return {LABEL_NAMES[REAL]: False, LABEL_NAMES[FAKE]: True}.get(self.verdict or "")

    @property
    def is_unsure(self) -> bool:
        """Whether there is a score, and no decision."""
        return self.logit is not None and self.is_fake is None
