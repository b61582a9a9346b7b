"""Verdicts: on a batch of images, and on a single picture, where there may be a reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from typing import Final, NamedTuple

from torch import Tensor

from mirror_pl.images import UndecodableImageError
from mirror_pl.images.crops import Crop
from mirror_pl.images.origin import Origin
from mirror_pl.images.pictures import Picture, as_data_url, as_image, shrunk
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


SHOWN_PX: Final = 256
"""Longer side of a picture in a notebook, at most."""


@dataclass(frozen=True, repr=False)
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
        origin: What the file says of its own origin, where that was asked for; it takes no part in the verdict.
        banded: ``real``, ``fake`` or ``unsure``, where the detector may abstain; else None.
        picture: What was scored, as it was given to `Detector.predict`; None elsewhere.
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
    origin: Origin | None = None
    picture: Picture | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        score = "" if self.p_fake is None else f", p_fake={self.p_fake:.4f}"
        why = "" if self.status == "ok" else f", {self.status}: {self.reason}"
        return f"Prediction({self.verdict or 'no score'}{score}{why})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, the verdict, and p_fake as a bar."""
        image = None
        with suppress(UndecodableImageError):
            image = None if self.picture is None else as_image(self.picture)
        shown = ""
        if image is not None:  # which may be the very one that was given
            shown = f'<img src="{as_data_url(shrunk(image, SHOWN_PX))}" alt="what was scored" style="margin-right:1em">'
        words = f"<b>{escape(self.verdict or 'no score')}</b>"
        if self.p_fake is not None:
            words += f'<br><meter min="0" max="1" value="{self.p_fake:.4f}"></meter> p_fake {self.p_fake:.4f}'
        if self.status != "ok":
            words += f"<br>{escape(self.status)}: {escape(self.reason)}"
        facts = "".join(f"<br>{escape(name)} {value:.4g}" for name, value in self.evidence.items())
        return f'<div style="display:flex;align-items:center">{shown}<div>{words}<small>{facts}</small></div></div>'

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
