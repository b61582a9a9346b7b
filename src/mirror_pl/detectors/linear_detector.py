"""What UnivFD, DDA and B-Free have in common: one linear layer over one feature vector of a crop, and how it is loaded."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mirror_pl.detectors.checkpoint.fit import misfits, missing_layers
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.detector_config import VIT_BOUNDS, LoraConfig, check_bounds
from mirror_pl.detectors.exact import exact_float32
from mirror_pl.detectors.lora import ATTENTION, add_lora
from mirror_pl.detectors.mirror import Normalise
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.images.spec import PreprocessSpec


@dataclass(frozen=True)
class VitSize:
    """Size of a vision transformer: features a token, layers, attention heads a layer, hidden features of a layer's MLP.

    The files carry none. It is asked for, and not read off their tensors, because a file whose last layers are missing
    would look like a smaller one.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int

    def __post_init__(self) -> None:
        check_bounds("a vision transformer", self, **VIT_BOUNDS)
        if self.width % self.heads:
            raise ConfigError(f"a vision transformer cannot have {self}")

    def __str__(self) -> str:
        return f"width {self.width}, {self.depth} layers, {self.heads} heads, MLP {self.mlp_width}"


class LinearDetector(Detector):
    """A detector that is a backbone and a linear layer.

    Its verdict's evidence is ``feature`` ``(B, D)``, what the linear layer sees.

    Attributes:
        title: Its name in print.
        licence: Of code and weights, in one line.
        restricted: Whether that licence keeps some users from using it.
        size: Of its backbone.
        lora: The adapters of its backbone; None where it has none, or they are merged.
    """

    title: ClassVar[str]
    licence: ClassVar[str]
    restricted: ClassVar[bool] = False

    def __init__(self, spec: PreprocessSpec, backbone: nn.Module, size: VitSize, width: int) -> None:
        super().__init__(spec)
        self.size = size
        self.lora: LoraConfig | None = None
        self.normalise = Normalise(spec.mean, spec.std)
        self.backbone = backbone
        self.head = nn.Linear(width, 1)

    @abstractmethod
    def feature(self, pixels: Tensor) -> Tensor:
        """Return the feature ``(B, D)`` of normalised pixels ``(B, 3, H, W)``, in the dtype of the backbone's weights."""

    @property
    def name(self) -> str:
        """Its title."""
        return self.title

    def description(self) -> dict[str, Any]:
        """Return what it is, in plain values; `baselines` rebuilds it from them."""
        lora = {} if self.lora is None else {"lora": asdict(self.lora)}
        return {**super().description(), "size": asdict(self.size), **lora}

    def adapt(self, lora: LoraConfig) -> None:
        """Put adapters around the backbone's attention, in place; the output does not change."""
        add_lora(self.backbone, lora, self.adapted)
        self.lora = lora

    adapted: ClassVar[str] = ATTENTION
    """Pattern of the names of the layers that `adapt` puts adapters around."""

    def restore_constants(self) -> None:
        """Make anew what no file carries, after construction on the meta device."""

    def score(self, pixels: Tensor) -> Verdict:
        """Score pixels ``(B, 3, H, W)`` in [0, 1].

        Raises:
            ValueError: If they are of another size than the recipe's; position tables would be stretched to it unasked.
        """
        side = self.spec.crop_px
        if pixels.shape[2:] != (side, side):
            raise ValueError(f"pixels for {self.title} must be (B, 3, {side}, {side}), got {tuple(pixels.shape)}")
        feature = self.feature(self.normalise(pixels).to(next(self.backbone.parameters()).dtype))
        with exact_float32(feature.device):
            logit = self.head(feature.to(self.head.weight.dtype)).squeeze(1).float()
        return Verdict(logit, logit.sigmoid(), {"feature": feature.float()})


Linear = TypeVar("Linear", bound=LinearDetector)


def check_fit(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], path: Path, what: str) -> None:
    """Make sure that tensors are those expected, neither fewer nor more.

    Args:
        tensors: What a file holds.
        shapes: What is expected.
        path: The file, for the message.
        what: The detector and its size, likewise.

    Raises:
        CheckpointError: Naming what is missing, unexpected or of another shape.
    """
    _refuse(misfits(tensors, shapes), path, what)


def check_depth(tensors: Mapping[str, Tensor], prefix: str, size: VitSize, path: Path, what: str) -> None:
    """Make sure that a file has as many layers as are asked for, before any is built; `prefix` is before their numbers.

    Raises:
        CheckpointError: As `check_fit`.
    """
    _refuse(missing_layers(tensors, prefix, size.depth), path, what)


def _refuse(problems: list[str], path: Path, what: str) -> None:
    if problems:
        raise CheckpointError("\n".join([f"checkpoint: {path} does not fit {what}", *problems]))


def filled(detector: Linear, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype) -> Linear:
    """Give a detector that was built on the meta device its tensors, and say under which licence they are.

    Args:
        detector: Changed in place.
        tensors: All of its tensors by their live names, but the constants of the normalisation. None is copied that is on
            its device and of its dtype already.
        device: Where they are put.
        dtype: Of the backbone's weights; the rest is float32.

    Returns:
        The same detector, frozen and in eval mode.
    """
    detector.normalise = Normalise(detector.spec.mean, detector.spec.std)
    constants = {f"normalise.{name}": tensor for name, tensor in detector.normalise.state_dict().items()}
    weights = {
        name: tensor.to(device, dtype if name.startswith("backbone.") else torch.float32)
        for name, tensor in (*tensors.items(), *constants.items())
    }
    detector.load_state_dict(weights, strict=True, assign=True)
    detector.restore_constants()
    level = logging.WARNING if detector.restricted else logging.INFO
    logging.getLogger(__name__).log(level, "%s: %s", detector.title, detector.licence)
    return detector.requires_grad_(False).eval().to(device)
