"""The linear layers of a backbone's transformer in 8 bits, by torchao; accepted only where scores hold to those before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import nn

from mirror_pl.detectors.scoring import device_of
from mirror_pl.errors import ConfigError
from mirror_pl.locate import miniature_dir

if TYPE_CHECKING:
    from mirror_pl.detectors.contract import Detector

Kind = Literal["fp8", "int8"]
"""Of weights and activations: ``fp8`` on NVIDIA GPUs of compute capability 8.9 or higher, ``int8`` on any, and on a CPU."""

PICTURES: Final = 32
FEWER_ON_A_CPU: Final = 8
"""Where a picture takes seconds: of a backbone of more than 100 million weights."""
MOST_FLIPPED: Final = 1
"""Decisions that may be others afterwards: a score beside the threshold may cross it by rounding."""


@dataclass(frozen=True)
class Quantised:
    """What quantising did to the scores of some pictures, with everything else the same.

    Attributes:
        kind: See `Kind`.
        layers: Linear layers that were quantised.
        pictures: Test pictures of the miniature, as many real as fake, that were scored before and after.
        largest: Largest difference of a logit.
        mean: Mean difference of a logit, without its sign.
        flipped: Pictures that were decided otherwise.
    """

    kind: str
    layers: int
    pictures: int
    largest: float
    mean: float
    flipped: int

    def __str__(self) -> str:
        fewer = "" if self.pictures == PICTURES else f" ({self.pictures} of {PICTURES}: on a CPU they take long)"
        return (
            f"quantise={self.kind}: {self.layers} linear layers; of {self.pictures} pictures{fewer} |logit difference| is "
            f"{self.largest:.3g} at most, {self.mean:.3g} in the mean, and {self.flipped} decisions flipped"
        )


def quantise(detector: Detector, kind: Kind, *, precision: str = "32-true") -> Quantised:
    """Quantise the linear layers of a backbone's transformer layers, in place; weights per row, activations as they come.

    The test pictures of the miniature are scored before and after. `MOST_FLIPPED` decisions may be others, and every score
    must be finite; otherwise this is refused, and the detector is of no use any more.

    Args:
        detector: In eval mode, on its device, LoRA merged.
        kind: ``fp8`` or ``int8``.
        precision: In which the pictures are scored, see `scoring.PRECISIONS`.

    Returns:
        What it did to the scores; the detector carries it as `quantised`.

    Raises:
        ConfigError: If torchao is not installed, the device cannot multiply so, or the detector is in training, quantised
            already, has LoRA apart or no transformer; or if scores do not hold.
    """
    config = _config(kind, device_of(detector))
    if detector.training or any(weight.requires_grad for weight in detector.parameters()):
        raise ConfigError(f"quantise={kind}: the detector is in training; call detector.requires_grad_(False).eval() first")
    if detector.quantised is not None:
        raise ConfigError(f"quantise={kind}: the detector is quantised already, to {detector.quantised.kind}")
    if getattr(detector, "lora", None) is not None:
        raise ConfigError(f"quantise={kind}: LoRA is kept apart; load it merged: detector.merge_lora=true, merge=True")
    backbone: nn.Module | None = getattr(detector, "backbone", None)
    layers = [] if backbone is None else [part for name, part in backbone.named_modules() if _is_of_a_layer(name, part)]
    if backbone is None or not layers:
        raise ConfigError(f"quantise={kind}: {detector.name} has no transformer whose linear layers could be quantised")
    pictures = _pictures(detector)
    before = _logits(detector, pictures, precision)
    from torchao.quantization import quantize_
    from torchao.utils import TorchAOBaseTensor

    quantize_(backbone, config, filter_fn=lambda part, _: part in layers)
    done = sum(isinstance(part.weight, TorchAOBaseTensor) for part in layers)  # it leaves some sizes as they are
    after = _logits(detector, pictures, precision)
    difference = np.abs(after - before)
    flipped = int(((after > 0) != (before > 0)).sum())
    found = Quantised(kind, done, len(pictures), float(difference.max()), float(difference.mean()), flipped)
    if not done or flipped > MOST_FLIPPED or not np.isfinite(difference).all():
        raise ConfigError(f"{found}; accepted is {MOST_FLIPPED}, with finite scores and a layer or more: leave quantise out")
    detector.quantised = found
    return found


def _config(kind: str, device: torch.device) -> Any:
    """Return what torchao is asked for.

    Raises:
        ConfigError: If it is not installed, or the device cannot.
    """
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8DynamicActivationInt8WeightConfig
    except ImportError as error:
        raise ConfigError("quantise: torchao is not installed: pip install 'mirror_pl[quantise]'") from error
    if kind not in ("fp8", "int8"):
        raise ConfigError(f"quantise must be fp8 or int8, got {kind!r}")
    if kind == "int8":
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"quantise=int8: expected a CPU or CUDA device, got {device}; leave quantise out")
        return Int8DynamicActivationInt8WeightConfig()
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        got = str(device) if device.type != "cuda" else "{}.{}".format(*torch.cuda.get_device_capability(device))
        raise ConfigError(
            f"quantise=fp8: expected a CUDA device of compute capability 8.9 or higher, got {got}; use quantise=int8"
        )
    return Float8DynamicActivationFloat8WeightConfig()


def _is_of_a_layer(name: str, part: nn.Module) -> bool:
    """Whether it is a linear layer inside one of a row of layers, which are counted."""
    return isinstance(part, nn.Linear) and any(word.isdigit() for word in name.split("."))


def _pictures(detector: Detector) -> list[Path]:
    """Return test pictures of the miniature, evenly spread, half of them real."""
    weights = sum(weight.numel() for weight in detector.backbone.parameters())
    is_slow = device_of(detector).type == "cpu" and weights > 10**8
    half = (FEWER_ON_A_CPU if is_slow else PICTURES) // 2
    found = sorted((miniature_dir() / "test").glob("*/*.jpg"))
    reals = [path for path in found if path.parent.name == "reals"]
    fakes = [path for path in found if path.parent.name != "reals"]
    return [of[len(of) * place // half] for of in (reals, fakes) for place in range(half)]


def _logits(detector: Detector, pictures: list[Path], precision: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the detector's own logits; NaN where one is not finite."""
    found = detector.predict(pictures, precision=precision)
    logits = [one.logit if one.raw_logit is None else one.raw_logit for one in found]
    return np.array([np.nan if logit is None else logit for logit in logits])
