"""What the published detectors to compare with have in common: a head over one feature of a crop, and how it is loaded."""

from __future__ import annotations

import inspect
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn

from mirror_pl.detectors.checkpoint.fit import misfits, missing_layers
from mirror_pl.detectors.checkpoint.names import live_names, our_name
from mirror_pl.detectors.checkpoint.read import RawCheckpoint
from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.detector_config import VIT_BOUNDS, LoraConfig, check_bounds, from_mapping
from mirror_pl.detectors.exact import exact_float32
from mirror_pl.detectors.lora import ATTENTION, add_lora, merge_lora
from mirror_pl.detectors.mapped import MappedFiles
from mirror_pl.detectors.normalise import Normalise
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import CheckpointError, ConfigError, name_list, shown
from mirror_pl.images.spec import PreprocessSpec
from mirror_pl.labels import FAKE, REAL

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class VitSize:
    """Size of a vision transformer: features a token, layers, attention heads a layer, hidden features of a layer's MLP."""

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


AskedSize = VitSize | Mapping[str, int] | None
"""``detector.size``; None is the published one."""


def asked_size(size: AskedSize, published: VitSize) -> VitSize:
    """Return the size that was asked for, of a detector whose file does not say it: a file cut off would seem smaller.

    Raises:
        ConfigError: If it is no size.
    """
    if size is None or isinstance(size, VitSize):
        return size or published
    return from_mapping(VitSize, size, "detector.size")


def read_size(
    tensors: Mapping[str, Tensor], layers: str, width: str, mlp: str, heads: AskedHeads, published: VitSize, path: Path
) -> VitSize:
    """Read a size off a file's tensors, all but the number of heads, which leaves no trace in them.

    Args:
        tensors: What the file holds.
        layers: What is before a layer's number in their names.
        width: Name of a tensor whose first dimension is the width.
        mlp: Likewise of the hidden features of an MLP.
        heads: ``{"heads": N}`` where heads are not 64 wide.
        published: A file of its width must have its depth too, or it is cut off.
        path: The file, for messages.

    Raises:
        CheckpointError: If it lacks these tensors.
        ConfigError: If the heads are not known, or do not go with the rest.
    """
    if missing := [name for name in (width, mlp) if name not in tensors or not tensors[name].ndim]:
        raise CheckpointError(f"checkpoint: {path} holds no such detector: {name_list(missing)} missing")
    features = tensors[width].shape[0]
    if heads is not None and set(heads) != {"heads"}:
        raise ConfigError(
            f"detector.size: the file says all but the heads; give detector.size={{heads: N}}, got {shown(dict(heads))}"
        )
    if heads is None and features % HEAD_WIDTH:
        raise ConfigError(
            f"detector.size: {path} has a width of {features}, and does not say how many attention heads; give "
            "detector.size={heads: N}"
        )
    number = features // HEAD_WIDTH if heads is None else heads["heads"]
    layer = re.compile(re.escape(layers) + r"(\d{1,3})\.")
    depth = 1 + max((int(found[1]) for found in map(layer.match, tensors) if found), default=0)
    if features == published.width:
        depth = published.depth
    return VitSize(features, depth, number, tensors[mlp].shape[0])


AskedHeads = Mapping[str, int] | None
"""``detector.size`` of a detector whose file says its size, but for the heads."""
HEAD_WIDTH: Final = 64
"""Of the published vision transformers."""


class Baseline(Detector):
    """A published detector to compare with: a backbone, and a head over one feature of a crop.

    Its verdict's evidence is ``feature`` ``(B, D)``, what the head sees, and, where the head has two, ``logits`` ``(B, 2)``
    of real and fake.

    Args:
        spec: Its recipe.
        backbone: What makes the feature.
        head: Makes one logit of it, or two, of real and fake, whose difference is the logit.
        built_with: The arguments of the subclass, by name; a file of our training carries them, and `rebuilt` passes them.

    Attributes:
        lora: The adapters of its backbone; None where it has none, or they are merged.
    """

    layers: ClassVar[str] = "backbone.layers."
    """What is before the number of a layer in our names of its tensors."""
    any_size: ClassVar[bool] = False
    """Whether it also scores pixels of another size than its recipe's."""
    adapted: ClassVar[str] = ATTENTION
    """Pattern of the names of the layers that `adapt` puts adapters around; empty where there are none for it."""

    def __init__(self, spec: PreprocessSpec, backbone: nn.Module, head: nn.Module, **built_with: Any) -> None:
        super().__init__(spec)
        self.built_with = built_with
        self.lora: LoraConfig | None = None
        self.normalise = Normalise(spec.mean, spec.std)
        self.backbone = backbone
        self.head = head

    @abstractmethod
    def feature(self, pixels: Tensor) -> Tensor:
        """Return the feature ``(B, D)`` of what `filtered` returned, in the dtype of the backbone's weights."""

    def filtered(self, pixels: Tensor) -> Tensor:
        """Return what the backbone sees of normalised pixels ``(B, 3, H, W)`` in float32: themselves."""
        return pixels

    def description(self) -> dict[str, Any]:
        """Return what it is, in plain values."""
        plain: dict[str, Any] = {
            name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            for name, value in self.built_with.items()
        }
        lora = {} if self.lora is None else {"lora": asdict(self.lora)}
        return {**super().description(), **plain, **lora}

    def rebuilt_from(self) -> dict[str, Any]:
        """Return its description, under its title."""
        return {**self.description(), "name": self.title}

    @classmethod
    def rebuilt(
        cls, trained: RawCheckpoint, *, merge: bool, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Load it from a file of our training; see `Detector.rebuilt`."""
        path, values = trained.path, dict(trained.config or {})
        tensors = {name: tensor for name, tensor in trained.tensors.items() if not name.startswith("normalise.")}
        try:
            lora = from_mapping(LoraConfig, values["lora"], "lora") if "lora" in values else None
            given = cls._arguments(values)
            if isinstance(size := given.get("size"), VitSize):
                check_depth(tensors, cls.layers, size.depth, path, cls.title)

            def make(adapters: LoraConfig | None) -> Any:
                detector = cls(**given)
                if adapters is not None:
                    detector.adapt(adapters)
                return detector

            if merge and lora is not None:
                with torch.device("meta"):
                    check_fit(tensors, tensor_shapes(make(lora)), path, cls.title)
                tensors, lora = merge_lora(tensors, lora, device, dtype), None
            found: Self = assembled(lambda: make(lora), tensors, path, cls.title, device, dtype)
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"checkpoint: {path} carries a description that is damaged: {error}") from error
        return found

    @classmethod
    def _arguments(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that a description holds, each of the type that the subclass says."""
        hints = get_type_hints(cls.__init__)
        given = {}
        for name in inspect.signature(cls).parameters:
            if name in values:
                kinds = (hints[name], *get_args(hints[name]))  # of X | None, X
                kind = next((each for each in kinds if isinstance(each, type) and is_dataclass(each)), None)
                value: Any = tuple(values[name]) if isinstance(values[name], list) else values[name]
                given[name] = value if kind is None or value is None else from_mapping(kind, value, name)
        return given

    def adapt(self, lora: LoraConfig) -> None:
        """Put adapters around the backbone's attention, in place; the output does not change.

        Raises:
            ConfigError: If it has no attention.
        """
        if not self.adapted:
            raise ConfigError(
                f"phase.lora_rank: {self.title} has no attention that LoRA could adapt; give phase.lora_rank=null"
            )
        add_lora(self.backbone, lora, self.adapted)
        self.lora = lora

    def restore_constants(self) -> None:
        """Make anew what no file carries, after construction on the meta device."""

    def score(self, pixels: Tensor) -> Verdict:
        """Score pixels ``(B, 3, H, W)`` in [0, 1].

        Raises:
            ValueError: If they are of another size than the recipe's; position tables would be stretched to it unasked.
        """
        side = self.spec.crop_px
        if pixels.shape[2:] != (side, side) and not self.any_size:
            raise ValueError(f"pixels for {self.title} must be (B, 3, {side}, {side}), got {tuple(pixels.shape)}")
        seen = self.filtered(self.normalise(pixels.float()))
        feature = self.feature(seen.to(next(self.backbone.parameters()).dtype))
        with exact_float32(feature.device):
            logits = self.head(feature.to(next(self.head.parameters()).dtype)).float()
        logit = logits[:, FAKE] - logits[:, REAL] if logits.shape[1] == 2 else logits[:, 0]
        both = {"logits": logits} if logits.shape[1] == 2 else {}
        return Verdict(logit, logit.sigmoid(), {"feature": feature.float(), **both})


Made = TypeVar("Made", bound=Baseline)


def tensor_shapes(detector: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of a detector's tensors under our names, but for the constants of its normalisation."""
    shapes = {our_name(name): tensor.shape for name, tensor in detector.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not name.startswith("normalise.")}


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


def check_depth(tensors: Iterable[str], prefix: str, depth: int, path: Path, what: str) -> None:
    """Make sure that a file has as many layers as are asked for, before any is built; `prefix` is before their numbers.

    Raises:
        CheckpointError: As `check_fit`.
    """
    _refuse(missing_layers(tensors, prefix, depth), path, what)


def _refuse(problems: list[str], path: Path, what: str) -> None:
    if problems:
        raise CheckpointError("\n".join([f"checkpoint: {path} does not fit {what}", *problems]))


def assembled(
    make: Callable[[], Made],
    tensors: Mapping[str, Tensor],
    path: Path,
    what: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Made:
    """Build a detector around tensors, all or nothing, and say under which licence they are.

    Args:
        make: Builds it; called on the meta device.
        tensors: All of its tensors by our names, but the constants of the normalisation. None is copied that is on its
            device and of its dtype already.
        path: Where they are from, for messages.
        what: The detector and its size, likewise.
        device: Where they are put.
        dtype: Of the backbone's weights; the rest is float32.

    Returns:
        The detector, frozen and in eval mode.

    Raises:
        CheckpointError: If a tensor is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        detector = make()
    check_fit(tensors, tensor_shapes(detector), path, what)
    floating = {our_name(name): tensor.is_floating_point() for name, tensor in detector.state_dict().items()}
    if wrong := sorted(name for name, tensor in tensors.items() if tensor.is_floating_point() != floating[name]):
        _refuse([f"  {len(wrong)} of another type: {name_list(wrong, 4)}"], path, what)
    detector.normalise = Normalise(detector.spec.mean, detector.spec.std)
    constants = {f"normalise.{name}": tensor for name, tensor in detector.normalise.state_dict().items()}
    live, files = live_names(detector), MappedFiles()
    weights = {
        name: files.converted(tensor, device, dtype if name.startswith("backbone.") else torch.float32)
        if tensor.is_floating_point()
        else tensor.to(device)
        for name, tensor in (*((live[name], tensor) for name, tensor in tensors.items()), *constants.items())
    }
    detector.load_state_dict(weights, strict=True, assign=True)
    detector.restore_constants()
    level = logging.WARNING if detector.restricted else logging.INFO
    logging.getLogger(__name__).log(level, "%s: %s", detector.title, detector.licence)
    return detector.requires_grad_(False).eval().to(device)
