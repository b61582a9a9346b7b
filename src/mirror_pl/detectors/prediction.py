"""Verdicts on single pictures, for Python: from a path or pixels to a typed answer, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mirror_pl.detectors.aggregation import CropPolicy
from mirror_pl.detectors.exact import float32_products
from mirror_pl.detectors.out_of_memory import SplittingScorer
from mirror_pl.errors import ConfigError
from mirror_pl.images.crops import Crop, cut, plan_crops
from mirror_pl.images.decode import UndecodableImageError, decode
from mirror_pl.sources import ImageSource

if TYPE_CHECKING:
    from mirror_pl.detectors.contract import Detector
    from mirror_pl.images.spec import PreprocessSpec

Picture: TypeAlias = "str | Path | ImageSource | bytes | Image.Image | NDArray[Any] | Tensor"
"""What can be scored: a file by its path, a part of one, an encoded file's bytes, an image, or pixels: ``(H, W, 3)`` in
numpy, ``(3, H, W)`` in torch; RGB, uint8 in [0, 255] or floating point in [0, 1], which is rounded to 255ths."""

PRECISIONS: Final = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Of the backbone, by Lightning's names; bank and head compute in float32 always."""


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
        logit: Above 0 means fake; None without a verdict.
        p_fake: In [0, 1], the sigmoid of the logit; None without a verdict.
        status: ``ok``; ``truncated``, decoded as far as the file goes, and scored; ``undecodable``; ``non_finite``, when the
            detector's answer is NaN or infinite.
        reason: Why the status is not ``ok``, in one line; else empty.
        size: Width and height of the decoded image, in pixels; None where there is none.
        crops: What it rests on, in the order of `plan_crops`.
        evidence: Means over the crops of what else the detector says in single numbers, such as ``entropy`` and
            ``max_weight``, and of the length of ``mean_residual``.
    """

    logit: float | None
    p_fake: float | None
    status: str
    reason: str = ""
    size: tuple[int, int] | None = None
    crops: tuple[CropScore, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_fake(self) -> bool | None:
        """The decision, by the sign of the logit; None without a verdict."""
        return None if self.logit is None else self.logit > 0


@dataclass(frozen=True)
class PreparedPicture:
    """A picture that was decoded and cut, or the reason why not; made without a detector, in any process.

    Attributes:
        pixels: ``(C, crop, crop, 3)`` uint8; None where there is no image.
        plan: Where the crops are.
        size: Of the decoded image, width and height.
        status: As in `Prediction`.
        reason: Likewise.
    """

    pixels: NDArray[np.uint8] | None
    plan: tuple[Crop, ...] = ()
    size: tuple[int, int] | None = None
    status: str = "ok"
    reason: str = ""


def prepare(picture: Picture, spec: PreprocessSpec, crops: str = "center", suffix: str | None = None) -> PreparedPicture:
    """Decode a picture and cut what a detector sees of it.

    The format alignment of the recipe goes by the suffix of a file's name; for bytes, by the format that they are in; for an
    image, by the file it was opened from, or else its format. Pixels are not aligned.

    Args:
        picture: See `Picture`.
        spec: The detector's recipe.
        crops: See `plan_crops`.
        suffix: To go by instead, with the dot; of a picture in a tar shard, say.

    Raises:
        TypeError: If it is none of the kinds of `Picture`.
        ValueError: If pixels have another shape, dtype or range than those of `Picture`.
    """
    flaw = ""
    try:
        if isinstance(picture, str | Path | ImageSource | bytes):
            source = Path(picture) if isinstance(picture, str) else picture
            decoded = decode(source)
            image, flaw = decoded.image, decoded.flaw
            own_suffix = _SUFFIXES.get(decoded.format, "") if isinstance(source, bytes) else _path_of(source).suffix
        elif isinstance(picture, Image.Image):
            own_suffix = Path(str(getattr(picture, "filename", ""))).suffix or _SUFFIXES.get(picture.format or "", "")
            image = _rgb(picture)
        else:
            image, own_suffix = _from_pixels(picture), ""
        plan = plan_crops(image.size, spec, crops)
    except UndecodableImageError as error:
        return PreparedPicture(None, status="undecodable", reason=str(error))
    status = "truncated" if flaw else "ok"
    pixels = cut(image, own_suffix if suffix is None else suffix, spec, plan)
    return PreparedPicture(pixels, plan, image.size, status, flaw)


_SUFFIXES: Final = {"PNG": ".png", "BMP": ".bmp"}
"""Suffixes of files in the formats that recipes align."""


def predict_all(
    detector: Detector,
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
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if detector.training:
        raise ConfigError("the detector is in train mode, in which scores are random; call detector.eval() first")
    device = next(detector.parameters()).device
    whole = [picture.pixels for picture in pictures if picture.pixels is not None]
    if not whole:
        return [_prediction(picture) for picture in pictures]
    pixels = torch.from_numpy(np.concatenate(whole)).permute(0, 3, 1, 2)
    score = scorer or SplittingScorer(detector)
    kind = PRECISIONS[precision]
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    autocast = nullcontext() if kind is None else torch.autocast(device.type, kind)
    with torch.inference_mode(), autocast, float32_products(device, tf32=False):
        for part in pixels.split(batch_size):
            verdict = score(part.to(device))
            found.append((verdict.logit.float().cpu(), _numbers(verdict.evidence)))
    logits = torch.cat([logit for logit, _ in found])
    evidence = {name: torch.cat([numbers[name] for _, numbers in found]) for name in found[0][1]}
    return list(_in_order(pictures, logits, evidence, policy))


def _in_order(
    pictures: Sequence[PreparedPicture], logits: Tensor, evidence: Mapping[str, Tensor], policy: CropPolicy
) -> Iterator[Prediction]:
    place = 0
    for picture in pictures:
        count = 0 if picture.pixels is None else len(picture.pixels)
        here = slice(place, place + count)
        place += count
        yield _prediction(picture, logits[here], {name: values[here] for name, values in evidence.items()}, policy)


def _prediction(
    picture: PreparedPicture,
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
    return Prediction(logit, p_fake, picture.status, picture.reason, picture.size, scores, means)


def _numbers(evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the evidence that is a number a crop, and the length of the mean residual."""
    numbers = {name: value.float().cpu() for name, value in evidence.items() if value.ndim == 1}
    if "mean_residual" in evidence:
        numbers["residual_norm"] = evidence["mean_residual"].float().norm(dim=1).cpu()
    return numbers


def _path_of(source: Path | ImageSource) -> Path:
    return source if isinstance(source, Path) else source.path


def _rgb(picture: Image.Image) -> Image.Image:
    try:
        return picture.convert("RGB")
    except Exception as error:  # it is read only now, and Pillow's plugins raise almost anything on malformed files
        raise UndecodableImageError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _from_pixels(pixels: NDArray[Any] | Tensor) -> Image.Image:
    if isinstance(pixels, Tensor):
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise ValueError(f"torch pixels must be (3, H, W), got {tuple(pixels.shape)}")
        array: NDArray[Any] = pixels.detach().cpu().permute(1, 2, 0).numpy()
    elif isinstance(pixels, np.ndarray):
        array = pixels
    else:
        raise TypeError(f"a picture must be a path, bytes, an image or pixels; got {type(pixels).__name__}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"numpy pixels must be (H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"pixels must be uint8 in [0, 255] or floating point in [0, 1], got {array.dtype}")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"floating point pixels must be in [0, 1], got {array.min()} to {array.max()}")
    return Image.fromarray(np.rint(array * 255).astype(np.uint8))
