"""Prepared pictures become predictions: their crops are scored in batches, and the scores of each picture made one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar, Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mirror_pl.abstention import VERDICTS
from mirror_pl.calibration import Calibration, p_fake_of
from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.exact import float32_products
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.detectors.verdict import CropScore, Prediction, Verdict
from mirror_pl.errors import ConfigError
from mirror_pl.images.pictures import PreparedPicture


class Precision(NamedTuple):
    """What a backbone computes in.

    Attributes:
        weights: Dtype of its weights.
        autocast: Dtype that float32 weights are rounded to for each product; None leaves them.
    """

    weights: torch.dtype = torch.float32
    autocast: torch.dtype | None = None


PRECISIONS: Final = {
    "32-true": Precision(),
    "bf16-mixed": Precision(autocast=torch.bfloat16),
    "16-mixed": Precision(autocast=torch.float16),
    "bf16-true": Precision(torch.bfloat16),
    "16-true": Precision(torch.float16),
}
"""Of the backbone, by Lightning's names; bank, head and normalisation compute in float32 always."""


def precision_of(name: str) -> Precision:
    """Return what a backbone computes in, by Lightning's name.

    Raises:
        ConfigError: If there is no such precision.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}; got {name!r}")
    return PRECISIONS[name]


class HasWeights(Protocol):
    """What is asked of a detector to know where it is."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return its weights: it is where they are."""


def device_of(detector: HasWeights) -> torch.device:
    """Return where a detector's weights are; of one without any, the CPU."""
    weight = next(detector.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


@contextmanager
def computing_in(precision: str, detector: HasWeights) -> Iterator[torch.device]:
    """Compute without gradients in a precision, and give the detector's device.

    Args:
        precision: One of `PRECISIONS`.
        detector: What computes; its backbone's weights must have the dtype that the precision says.

    Raises:
        ConfigError: If there is no such precision, or the weights are wider than it says.
    """
    kind, device = precision_of(precision), device_of(detector)
    backbone = getattr(detector, "backbone", None)
    weight = None if backbone is None else next(backbone.parameters(), None)
    if weight is not None and kind.weights not in (torch.float32, weight.dtype):
        raise ConfigError(
            f"precision={precision}: the weights of {type(detector).__name__}'s backbone are {weight.dtype}, expected "
            f"{kind.weights}; load it with load_detector(..., dtype={kind.weights})"
        )
    autocast = nullcontext() if kind.autocast is None else torch.autocast(device.type, kind.autocast)
    with torch.inference_mode(), autocast, float32_products(device, tf32=False):
        yield device


class Scores(HasWeights, Protocol):
    """What is asked of a detector to score pictures; see `Detector`."""

    protocol: ClassVar[CropPolicy]
    training: bool
    calibration: Calibration | None

    def __call__(self, pixels: Tensor) -> Verdict:
        """Score a batch."""


def predict_all(
    detector: Scores,
    pictures: Sequence[PreparedPicture],
    *,
    policy: CropPolicy | None = None,
    batch_size: int = 16,
    precision: str = "32-true",
    scorer: SplittingScorer | None = None,
) -> list[Prediction]:
    """Score pictures that were prepared with the policy's crops, and return one prediction each, in their order.

    Args:
        detector: In eval mode; its device is where it is scored.
        pictures: From `prepare`.
        policy: What becomes of the crops; None is the detector's protocol.
        batch_size: Crops at a time, at most. What does not fit into memory is split.
        precision: One of `PRECISIONS`.
        scorer: The detector's, which is handed in by who calls more than once: it knows how many crops fit into memory.

    Raises:
        ConfigError: If a setting is out of range, the detector is in train mode, or a single crop does not fit into memory.
    """
    policy = policy or detector.protocol
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    precision_of(precision)
    if detector.training:
        raise ConfigError("the detector is in train mode, in which scores are random; call detector.eval() first")
    whole = [picture.pixels for picture in pictures if picture.pixels is not None]
    if not whole:
        return [_prediction(picture, None) for picture in pictures]
    pixels = torch.from_numpy(np.concatenate(whole)).permute(0, 3, 1, 2)
    score = scorer or SplittingScorer(detector)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    with computing_in(precision, detector) as device:
        for part in pixels.split(batch_size):
            verdict = score(part.to(device))
            found.append((verdict.logit.float().cpu(), _numbers(verdict.evidence)))
    logits = torch.cat([logit for logit, _ in found])
    evidence = {name: torch.cat([numbers[name] for _, numbers in found]) for name in found[0][1]}
    return list(_in_order(pictures, logits, evidence, policy, detector.calibration))


def _in_order(
    pictures: Sequence[PreparedPicture],
    logits: Tensor,
    evidence: Mapping[str, Tensor],
    policy: CropPolicy,
    calibration: Calibration | None,
) -> Iterator[Prediction]:
    place = 0
    for picture in pictures:
        count = 0 if picture.pixels is None else len(picture.pixels)
        here = slice(place, place + count)
        place += count
        means = {name: values[here] for name, values in evidence.items()}
        yield _prediction(picture, calibration, logits[here], means, policy)


def _prediction(
    picture: PreparedPicture,
    calibration: Calibration | None,
    logits: Tensor | None = None,
    evidence: Mapping[str, Tensor] | None = None,
    policy: CropPolicy | None = None,
) -> Prediction:
    if picture.pixels is None or logits is None or policy is None:
        return Prediction(None, None, picture.status, picture.reason)
    logit, p_fake = (float(value) for value in policy(logits[None]))
    scores = tuple(CropScore(crop, float(value)) for crop, value in zip(picture.plan, logits, strict=True))
    if not np.isfinite(logit):
        return Prediction(None, None, "non_finite", f"the detector's logit is {logit}", picture.size, scores)
    means = {name: float(values.mean()) for name, values in (evidence or {}).items()}
    if calibration is None:
        return Prediction(logit, p_fake, picture.status, picture.reason, picture.size, scores, means)
    raw = np.array([logit], np.float32)
    calibrated = calibration(raw)
    banded = None if calibration.abstain is None else VERDICTS[int(calibration.verdicts(raw)[0])]
    judged = float(calibrated[0]), float(p_fake_of(calibrated)[0])
    return Prediction(*judged, picture.status, picture.reason, picture.size, scores, means, logit, banded)


def _numbers(evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the evidence that is a number a crop, and the length of the mean residual."""
    numbers = {name: value.float().cpu() for name, value in evidence.items() if value.ndim == 1}
    if "mean_residual" in evidence:
        numbers["residual_norm"] = evidence["mean_residual"].float().norm(dim=1).cpu()
    return numbers
