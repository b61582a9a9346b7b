"""A detector described in plain values: what a checkpoint carries, and what rebuilds the model without Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from mirror_pl.errors import ConfigError, name_list, nearest, shown
from mirror_pl.images.spec import PreprocessSpec

Family = Literal["dinov2", "dinov3"]


def check_bounds(what: str, values: object, **bounds: tuple[int, int]) -> None:
    """Check that attributes are integers within bounds, which no detector comes near: a file can say anything.

    Args:
        what: What they belong to, for the message.
        values: The object that has them.
        bounds: The least and the most of each, by its name.

    Raises:
        ConfigError: Naming the first that is not.
    """
    for name, (least, most) in bounds.items():
        value = getattr(values, name)
        if type(value) is not int or not least <= value <= most:
            raise ConfigError(f"the {name} of {what} must be at least {least} and at most {most}, got {shown(value)}")


VIT_BOUNDS: Final = {"width": (1, 2**14), "depth": (1, 2**8), "heads": (1, 2**10), "mlp_width": (1, 2**16)}
"""Of a vision transformer: the largest there is has a width of 6144, 48 layers, 48 heads and an MLP of 24576."""


@dataclass(frozen=True)
class BackboneConfig:
    """Architecture of a DINOv2 or DINOv3 vision transformer.

    Attributes:
        family: Which of the two; decides normalisation layers, position encoding and attention biases.
        width: Features a token, D.
        depth: Number of layers.
        heads: Attention heads a layer; divides `width`.
        mlp_width: Hidden features of a layer's MLP.
        gated_mlp: Gated SiLU (DINOv3 ViT-H+) instead of GELU.
        patch_px: Side of a square patch in pixels.
        registers: Register tokens between CLS and the patches.
        native_px: Side of the square images the position table was made for (DINOv2; DINOv3 has no table).
        rope_rescale: DINOv3 rescales its position coordinates at random in train mode, by up to this factor. transformers
            does so by default (2.0), also for a frozen backbone; here it is off unless asked for.
    """

    family: Family
    width: int
    depth: int
    heads: int
    mlp_width: int
    gated_mlp: bool = False
    patch_px: int = 16
    registers: int = 0
    native_px: int = 224
    rope_rescale: float | None = None

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ConfigError(f"backbone family must be one of {get_args(Family)}, got {shown(self.family)}")
        bounds = {"patch_px": (1, 2**10), "native_px": (1, 2**14), "registers": (0, 2**10)}
        check_bounds("a backbone", self, **VIT_BOUNDS, **bounds)
        if self.width % self.heads:
            raise ConfigError(f"backbone width {self.width} is not divisible by its {self.heads} heads")
        if self.family == "dinov3" and self.width // self.heads % 4:
            raise ConfigError(
                f"each of a DINOv3 backbone's {self.heads} heads has {self.width // self.heads} features; its RoPE takes a "
                "multiple of 4"
            )
        if self.rope_rescale is not None and not 1 < self.rope_rescale < float("inf"):
            raise ConfigError(f"rope_rescale must be more than 1, or null for none, got {self.rope_rescale}")
        if self.family == "dinov2" and (self.gated_mlp or self.registers or self.rope_rescale):
            raise ConfigError("a DINOv2 backbone has no gated MLP, no registers and no RoPE; set none of the three")

    def __str__(self) -> str:
        gated = " gated" if self.gated_mlp else ""
        return (
            f"{self.family}, width {self.width}, {self.depth} layers, {self.heads} heads, MLP {self.mlp_width}{gated}, "
            f"patch {self.patch_px}, {self.registers} registers"
        )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on q, k and v of every layer: W + (alpha / rank) B A."""

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        check_bounds("LoRA", self, rank=(1, 2**14))
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"the alpha of LoRA must be more than 0, got {self.alpha}")

    @property
    def scaling(self) -> float:
        """Factor of B A; 2.0 as published."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class MemoryBankConfig:
    """Size of the bank and of its retrieval: `slots` K, `heads` H, `top_k` slots kept per row."""

    slots: int = 4096
    heads: int = 8
    top_k: int = 128

    def __post_init__(self) -> None:
        check_bounds("the memory bank", self, slots=(1, 2**22), heads=(1, 2**10), top_k=(1, 2**22))
        if self.top_k > self.slots:
            raise ConfigError(f"top_k must be between 1 and the {self.slots} slots of the memory bank, got {self.top_k}")


HeadInput = Literal["perplexity", "residual", "cls"]
"""What a head can look at; the first two are made by the memory bank."""


@dataclass(frozen=True)
class HeadConfig:
    """What the head looks at, and its sizes; the defaults are the published ones.

    Attributes:
        inputs: Without "perplexity" or "residual" there is no such branch; without "cls" the classifier does not see the CLS
            token, as in the paper's Eq. 5; with nothing but "cls" it is the direct classifier of the paper's ablation.
        perplexity_width: Features that the perplexity branch makes of its two numbers.
        residual_hidden: Hidden features of the residual branch.
        residual_width: Features that it ends with.
        hidden: Hidden features of the classifier; with 0 it is one linear layer.
        dropout: In training, share of the hidden features set to 0.
    """

    inputs: tuple[HeadInput, ...] = ("perplexity", "residual", "cls")
    perplexity_width: int = 64
    residual_hidden: int = 512
    residual_width: int = 256
    hidden: int = 512
    dropout: float = 0.3

    def __post_init__(self) -> None:
        known = get_args(HeadInput)
        if not self.inputs or len(set(self.inputs)) < len(self.inputs) or not set(self.inputs) <= set(known):
            raise ConfigError(f"head inputs must be some of {name_list(known)}, each once, got {shown(list(self.inputs))}")
        most = 2**16
        branches = dict.fromkeys(("perplexity_width", "residual_hidden", "residual_width"), (1, most))
        check_bounds("the head", self, **branches, hidden=(0, most))
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head dropout must be at least 0 and less than 1, got {self.dropout}")

    @property
    def needs_bank(self) -> bool:
        """Whether anything that the head looks at is made by a memory bank."""
        return set(self.inputs) != {"cls"}

    @property
    def is_linear(self) -> bool:
        """Whether the classifier is one layer; with nothing but "cls", the head is a logistic regression."""
        return self.hidden == 0


@dataclass(frozen=True)
class DetectorConfig:
    """Everything needed to rebuild a MIRROR detector before its weights are loaded.

    Attributes:
        backbone: Its architecture.
        lora: Its adapters; ``None`` where there are none, or where they were merged into the weights.
        memory_bank: Size of the bank and of its retrieval; ``None`` for a head that looks at nothing but the CLS token.
        head: What the head looks at, and its sizes.
        drop_registers: Keep register tokens away from the bank (a variant; published weights use them).
        preprocess: The recipe whose pixels the weights were trained for.
    """

    backbone: BackboneConfig
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    memory_bank: MemoryBankConfig | None = field(default_factory=MemoryBankConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    drop_registers: bool = False
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)

    def __post_init__(self) -> None:
        check_bounds("the preprocessing", self.preprocess, align_quality=(1, 100))
        if self.preprocess.crop_px < self.backbone.patch_px:
            raise ConfigError(
                f"crop_px of the preprocessing must be at least the backbone's patch, {self.backbone.patch_px}, got "
                f"{self.preprocess.crop_px}"
            )
        if self.memory_bank is None:
            if self.head.needs_bank:
                raise ConfigError(f"head inputs {list(self.head.inputs)} need a memory bank, and there is none")
        elif self.backbone.width % self.memory_bank.heads:
            raise ConfigError(
                f"backbone width {self.backbone.width} is not divisible by the {self.memory_bank.heads} heads of the "
                "memory bank"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the config as nested dicts of plain values, fit for JSON and for a safe checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorConfig:
        """Rebuild a config written by `to_dict`.

        Raises:
            ConfigError: If a key is unknown or missing, or a value is out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"detector config: expected keys and values, got {shown(values)}")
        values = dict(values)
        parts: dict[str, Any] = {
            "backbone": BackboneConfig,
            "lora": LoraConfig,
            "memory_bank": MemoryBankConfig,
            "head": HeadConfig,
            "preprocess": PreprocessSpec,
        }
        for name, part in parts.items():
            if values.get(name) is not None:
                values[name] = from_mapping(part, values[name], where=f"detector config, {name}")
        return from_mapping(cls, values, where="detector config")


T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `values`, refusing unknown and missing keys by name; lists become tuples.

    Raises:
        ConfigError: Naming `where` and the keys.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {shown(values)}")
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {shown(unknown[0])}.{nearest(shown(unknown[0]), known)} Known: {name_list(known, 20)}"
        )
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    missing = [key for key in required if key not in values]
    if missing:
        raise ConfigError(f"{where}: {name_list(missing)} not given")
    types = get_type_hints(cls)
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in plain.items():
        if not _is_of(value, types[key]):
            raise ConfigError(f"{where}: {key} must be {types[key]}, got {shown(value)}")
        if isinstance(value, int) and not isinstance(value, bool) and value < 0:
            raise ConfigError(f"{where}: {key} must not be negative, got {shown(value)}")
    try:
        return cls(**plain)
    except (TypeError, ZeroDivisionError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _is_of(value: object, annotation: Any) -> bool:
    """Whether `value` is of an annotated type, as far as the configs above use them; an integer is a float too."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(inner) and all(map(_is_of, value, inner))
    if origin is Literal:
        return True  # a message of its own says which values there are
    if arguments:  # X | None
        return any(_is_of(value, argument) for argument in arguments)
    if annotation is float:
        return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)
