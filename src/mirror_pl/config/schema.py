"""The settings of each command: each is declared here once, with its type and range; the YAML files say what it does."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from mirror_pl.config.plain_paths import paths_in
from mirror_pl.errors import ConfigError, nearest
from mirror_pl.hub import local_path
from mirror_pl.scores import Compat

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0)]
Workers = Annotated[int, Field(ge=0)] | None
Labels: TypeAlias = str | dict[str, Any] | None
"""A CSV file with labels, or what `parse_label_table` takes."""


def _resolved(name: str, info: ValidationInfo) -> str:
    if not info.context:
        return name
    return local_path(name, "backbone.path" if info.field_name == "path" else str(info.field_name))


PrecisionName: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true"]
"""Of `detectors.scoring.PRECISIONS`, which is not asked here: it imports torch, and a wrong setting is answered at once."""

Weights = Annotated[str, AfterValidator(_resolved)]
"""A file or folder of weights, or of a calibration: a path, or an id on the Hugging Face Hub (`HubId`), made into one."""


def _refusal(message: str) -> PydanticCustomError:
    return PydanticCustomError("refusal", "{message}", {"message": message})


class Settings(BaseModel):
    """Base: values are converted to their types, unknown names are refused, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class BackboneSettings(Settings):
    """Which architecture: by name, by a Hugging Face folder, or (neither) as the checkpoint has it."""

    model_config = ConfigDict(extra="ignore")  # an option may bring a checkpoint, which is read elsewhere
    name: str | None = None
    path: Weights | None = None


class LoadSettings(Settings):
    """Which detector is expected, and how it is loaded."""

    model_config = ConfigDict(extra="allow")  # what a detector's class takes besides
    name: str
    merge_lora: bool
    size: dict[str, int] | None = None
    target: Annotated[str | None, Field(alias="_target_", pattern=r"^\w+(\.\w+)+$")] = None

    @property
    def options(self) -> dict[str, Any]:
        """Further settings, which the detector's class must have; checkpoint and head are read elsewhere."""
        return {name: value for name, value in (self.model_extra or {}).items() if name not in ("checkpoint", "head")}


class CheckpointSettings(Settings):
    """Which detector, and which files it is loaded from."""

    backbone: BackboneSettings
    detector: LoadSettings
    checkpoint: Weights | None
    memory_path: Weights | None
    trust: str | list[str] | None

    @property
    def trusted(self) -> list[str]:
        """Packages that a detector's class may be imported from."""
        return [self.trust] if isinstance(self.trust, str) else self.trust or []


class DetectorSettings(CheckpointSettings):
    """Also what of an image it sees, and what is made of its score: what all commands that score share."""

    calibration: Weights | None
    abstain: Annotated[float, Field(gt=0, le=0.5)] | None
    compile: bool
    compile_cache: str = "outputs/.compiled"
    quantise: Literal["fp8", "int8", None] = None
    crops: str | None
    aggregate: str
    aggregate_of: str
    top_fraction: float
    batch_size: Literal["auto"] | Count
    num_workers: Workers

    @model_validator(mode="after")
    def _bands_are_there(self) -> DetectorSettings:
        if self.abstain is not None and self.calibration is None:
            raise _refusal("abstain: it needs a calibration, which has the bands; give calibration=FILE too")
        if self.quantise is not None and not self.detector.merge_lora:
            raise _refusal("quantise and detector.merge_lora=false: adapters are merged first; leave one of the two out")
        return self


class ScoringSettings(DetectorSettings):
    """Also what is done to an image before: of ``mirror_pl.eval`` and ``predict``."""

    perturb: str | list[str] | None
    perturb_seed: Seed
    format_align: Literal["none", "png", "all", None]


class EvalSettings(ScoringSettings):
    """Settings of ``mirror_pl.eval``."""

    heads: list[Weights] | None
    data_root: str
    reals: str | None
    labels: Labels
    tf32: bool
    cache_dir: str | None
    cache_limit_gb: Positive
    output_dir: str
    resume: bool
    repeat: str | None
    save_every_s: NotNegative
    require_all: bool
    per_class: bool
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)]
    compat: Literal["published", None]

    @property
    def quirks(self) -> Compat:
        """`compat`, under the name that the metrics give it."""
        return self.compat

    @model_validator(mode="after")
    def _one_of_two(self) -> EvalSettings:
        if self.resume and self.repeat is not None:
            raise _refusal("repeat and resume: a repetition is a run of its own; give one of the two")
        if self.heads and (self.calibration or self.repeat or self.quantise):
            raise _refusal("heads: calibration, repeat and quantise are of one detector; score it by itself")
        return self


class RobustnessSettings(EvalSettings):
    """Settings of ``mirror_pl.robustness``."""

    suite: dict[str, Any]
    threshold_from: str | None
    level: Annotated[float, Field(gt=0, lt=1)]
    replicates: Count

    @model_validator(mode="after")
    def _of_the_suite(self) -> RobustnessSettings:
        if self.perturb or self.format_align:
            raise _refusal("perturb and format_align: the suite says it; leave them out, or use mirror_pl.eval")
        if self.repeat is not None or self.compat is not None:
            raise _refusal("repeat and compat are settings of mirror_pl.eval; leave them out")
        if self.heads and self.threshold_from is not None:
            raise _refusal("heads and threshold_from: a threshold is of one detector; leave one of the two out")
        return self


FREE_SETTINGS = (
    "output_dir", "resume", "repeat", "save_every_s", "num_workers", "cache_dir", "cache_limit_gb", "compile_cache",
    "data.num_workers", "data.cache_dir", "data.cache_limit_gb", "data.index_cache",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.default_root_dir",
    "callbacks", "logger", "paths",
)  # fmt: skip
"""Settings of an evaluation that change neither a score nor a report; a resumed run may have other ones."""


class RaySettings(Settings):
    """``ray``: the cluster of ``engine=ray``."""

    address: str | None
    num_gpus: NotNegative | None
    num_cpus: NotNegative
    concurrency: Count | None


class PredictSettings(ScoringSettings):
    """Settings of ``mirror_pl.predict``."""

    dedupe: bool
    provenance: bool
    engine: Literal["local", "ray"]
    ray: RaySettings

    input: list[str]
    output: str | None
    device: str
    precision: PrecisionName
    max_megapixels: Positive
    timeout_s: Positive
    maps: str | None
    resume: bool
    save_every_s: NotNegative
    units: Annotated[str | None, Field(pattern=r"^\d{1,6}/[1-9]\d{0,5}$")]

    @property
    def share(self) -> tuple[int, int]:
        """Which of how many shares of the units are scored: ``(0, 1)`` are all."""
        number, of = (self.units or "0/1").split("/")
        return int(number), int(of)

    @model_validator(mode="after")
    def _together(self) -> PredictSettings:
        number, of = self.share
        if number >= of:
            raise _refusal(f"units: shares are counted from 0: of {of}, the last is {of - 1}/{of}; got {self.units}")
        if self.maps is not None and self.resume:
            raise _refusal(
                "maps and resume: maps are made of pictures as they are scored, and those of a stopped run have been; leave "
                "maps out, or begin anew"
            )
        if self.engine == "ray" and (self.maps is not None or self.units is not None):
            raise _refusal("engine=ray: makes no maps, and shares the units out itself; leave maps and units out")
        if self.dedupe and self.perturb:
            raise _refusal("dedupe and perturb: equal pictures of other names are perturbed by other draws; leave one out")
        if not self.input:
            raise _refusal("input: none is named; give files, folders or lists: mirror-pl predict PATH...")
        if self.output is None and (self.resume or self.units is not None or self.engine == "ray" or "-" in self.input):
            raise _refusal("output: resume, units, engine=ray and - need one; give output=FILE, as in output=scores.csv")
        return self


class ServingSettings(DetectorSettings):
    """What ``mirror_pl.app`` and ``mirror_pl.serve`` share."""

    device: str
    precision: PrecisionName
    host: str
    port: Annotated[int, Field(ge=0, lt=65536)]
    hosts: list[Annotated[str, Field(pattern=r"^[^/:*]+$")]]
    root_path: str | None
    max_upload_mb: Positive
    max_files: Count
    max_megapixels: Positive


class AppSettings(ServingSettings):
    """Settings of ``mirror_pl.app``."""

    at_once: Count


class ServeSettings(ServingSettings):
    """Settings of ``mirror_pl.serve``."""

    max_waiting: Count

    @model_validator(mode="after")
    def _room_for_a_request(self) -> ServeSettings:
        if self.max_files > self.max_waiting:
            raise _refusal(
                f"max_files and max_waiting: a request of {self.max_files} files has no room among {self.max_waiting}"
            )
        return self


class ConvertSettings(Settings):
    """Settings of ``mirror_pl.convert``."""

    backbone: BackboneSettings
    input: Weights
    output: str
    memory_path: Weights | None
    merge_lora: bool
    dtype: Literal["float32", "bfloat16"]


class CheckDataSettings(Settings):
    """Settings of ``mirror_pl.check_data``."""

    data_root: str
    reals: str | None
    labels: Labels
    decode: bool
    audit: bool
    json_file: Annotated[str | None, Field(alias="json")]


class PathSettings(Settings):
    """Of ``paths``, what a command asks for by itself."""

    model_config = ConfigDict(extra="ignore")
    checkpoints: str


class WeightsSettings(Settings):
    """Settings of ``mirror_pl.weights``."""

    paths: PathSettings
    fetch: list[str]


class ReportSettings(Settings):
    """Settings of ``mirror_pl.report``."""

    runs: list[str]
    output_dir: str
    level: Annotated[float, Field(gt=0, lt=1)]
    replicates: Count
    seed: Seed
    threshold_from: str | None
    compare: list[str] | None
    images: bool
    worst: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _enough(self) -> ReportSettings:
        if not self.runs:
            raise _refusal("runs: none is named; give run folders, or a folder above them: mirror-pl report outputs/eval")
        if self.compare is not None and len(set(self.compare)) < 2:
            raise _refusal(f"compare must be null or name two detectors or more, got {self.compare}")
        return self


class CalibrateSettings(Settings):
    """Settings of ``mirror_pl.calibrate``."""

    runs: list[str]
    output: str
    subsets: list[str] | None
    method: Literal["none", "temperature", "platt", "isotonic", "shift"]
    balanced: bool

    @model_validator(mode="after")
    def _enough(self) -> CalibrateSettings:
        if not self.runs:
            raise _refusal("runs: none is named; give a run folder: mirror-pl calibrate RUN output=calibration.json")
        if self.subsets is not None and not self.subsets:
            raise _refusal("subsets: none is named; give subsets=[a,b], or leave it out for all images of the run")
        return self


class GallerySettings(Settings):
    """Settings of ``mirror_pl.gallery``."""

    runs: list[str]
    output_dir: str
    count: Count
    images: bool
    maps: bool

    @model_validator(mode="after")
    def _enough(self) -> GallerySettings:
        if not self.runs:
            raise _refusal("runs: none is named; give a run folder: mirror-pl gallery outputs/eval/genimage/TIME")
        if self.maps and not self.images:
            raise _refusal("maps and images: maps are laid over images; images=false leaves both out")
        return self


class PhaseSettings(Settings):
    """What every phase of a training has; ``configs/phase/`` says what each setting is."""

    name: str
    labels: list[int]
    batch_size: Count
    epochs: Count


class MemoryPhaseSettings(PhaseSettings):
    """What Phase 1 learns, and from what it begins."""

    init: str
    slots: int
    heads: int
    top_k: int
    drop_registers: bool
    feature_cache: str | None


class DetectorPhaseSettings(PhaseSettings):
    """What Phase 2 and the probe learn."""

    lora_rank: int | None
    lora_alpha: float
    top_k: int | None
    drop_registers: bool | None
    rope_rescale: float | None
    gradient_checkpointing: bool
    self_contained: bool


class TrainSettings(Settings):
    """Settings of ``mirror_pl.train`` in every phase."""

    backbone: BackboneSettings
    batch_size: Count
    num_workers: Workers
    seed: Seed
    output_dir: str
    resume: bool
    save_every_steps: Count


class MemoryTrainSettings(TrainSettings):
    """Settings of ``mirror_pl.train phase=memory``."""

    phase: MemoryPhaseSettings


class DetectorTrainSettings(TrainSettings, CheckpointSettings):
    """Settings of ``mirror_pl.train phase=detector`` and ``phase=probe``."""

    phase: DetectorPhaseSettings


class MiniaturePhaseSettings(PhaseSettings):
    """What the miniature is made of."""

    world: str | None
    bank: Literal["real", "mixed", "fake"]


class MiniatureSettings(Settings):
    """Settings of ``mirror_pl.train experiment=miniature``; its parts have those of their own commands."""

    phase: MiniaturePhaseSettings
    num_workers: Workers
    seed: Seed
    output_dir: str
    resume: bool


AnyTrainSettings: TypeAlias = MemoryTrainSettings | DetectorTrainSettings | MiniatureSettings
_PHASES: Final[dict[str, type[AnyTrainSettings]]] = {
    "memory": MemoryTrainSettings,
    "detector": DetectorTrainSettings,
    "probe": DetectorTrainSettings,
    "miniature": MiniatureSettings,
}
SomeSettings = TypeVar("SomeSettings", bound=Settings)


def read_train_settings(cfg: DictConfig) -> AnyTrainSettings:
    """Read the settings of ``mirror_pl.train`` for the phase that was chosen; errors as `read_settings`."""
    name = cfg.phase.get("name")
    if name not in _PHASES:
        raise ConfigError(f"phase.name must be one of {', '.join(_PHASES)}, got {name}.{nearest(str(name), _PHASES)}")
    return read_settings(cfg, _PHASES[name])


_OF_COMMANDS: Final[dict[str, type[Settings]]] = {
    "eval": EvalSettings,
    "robustness": RobustnessSettings,
    "predict": PredictSettings,
    "report": ReportSettings,
    "gallery": GallerySettings,
    "calibrate": CalibrateSettings,
    "app": AppSettings,
    "serve": ServeSettings,
    "convert": ConvertSettings,
    "check_data": CheckDataSettings,
    "weights": WeightsSettings,
}


def read_command_settings(cfg: DictConfig, command: str) -> Settings:
    """Read the settings of a command; errors as `read_settings`."""
    return read_train_settings(cfg) if command == "train" else read_settings(cfg, _OF_COMMANDS[command])


def read_settings(cfg: DictConfig, cls: type[SomeSettings]) -> SomeSettings:
    """Read the settings of a command from its composed config, converted to their types.

    What reads the config itself (the ``_target_`` nodes) sees the converted values too.

    Raises:
        ConfigError: If a value is missing, unknown, of another type, or out of range.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    names = [field.alias or name for name, field in cls.model_fields.items()]
    settings = check_settings({name: plain[name] for name in names}, cls)
    for name, value in settings.model_dump(by_alias=True).items():
        if not isinstance(value, dict | list):
            cfg[name] = literal(value)
        elif name == "heads":
            cfg.heads = literal(value)
        elif name == "backbone" and isinstance(value, dict) and value["path"] is not None:
            cfg.backbone.path = literal(value["path"])
    return settings


def check_settings(values: dict[str, Any], cls: type[SomeSettings]) -> SomeSettings:
    """Return `values`, plain ones, as the settings of a command; texts in them are taken as they are.

    Ids on the Hugging Face Hub become paths, once nothing else is wrong.

    Raises:
        ConfigError: As `read_settings`.
        CheckpointError: If what an id names cannot be had.
    """
    for name, value in values.items():
        if value == MISSING:
            raise ConfigError(f"{name}: not given; add {name}=... to the command")
        if isinstance(value, str) and (paths := paths_in(value)) is not None:
            values = {**values, name: paths}
    try:
        cls.model_validate(values)
        return cls.model_validate(values, context={"resolve": True})
    except ValidationError as error:
        raise ConfigError(_in_words(error.errors()[0], cls)) from error


def _in_words(error: ErrorDetails, cls: type[Settings]) -> str:
    """Say what pydantic found, as all messages of this project say it: which setting, what is expected, what it got."""
    kind, context = error["type"], error.get("ctx", {})
    path = [part for part in error["loc"] if isinstance(part, str) and not part.startswith(("literal[", "constrained"))]
    key, got = ".".join(path), "null" if error["input"] is None else error["input"]
    if kind == "refusal":
        return error["msg"]
    if kind == "extra_forbidden":
        for part in path[:-1]:
            cls = cls.model_fields[part].annotation  # type: ignore[assignment]  # of groups, which are settings
        return f"{key}: there is no such setting.{nearest(path[-1], cls.model_fields)}"
    if key == "batch_size" and cls.model_fields["batch_size"].annotation is not int:  # of a union, each part has an error
        return f"batch_size must be auto or a whole number of at least 1, got {got}"
    limits = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "more than")}
    limits |= {"less_than_equal": ("le", "at most"), "less_than": ("lt", "less than")}
    if kind in limits:
        name, words = limits[kind]
        return f"{key} must be {words} {context[name]:g}, got {got}"
    if kind == "literal_error":
        return f"{key} must be one of {str(context['expected']).replace(chr(39), '')}, got {got}"
    expected = error["msg"].replace("Input should be", "must be").replace("a valid integer", "a whole number")
    return f"{key}: {expected}, got {got}"


def literal(value: Any) -> Any:
    """Return a plain value as OmegaConf takes it for itself: ``${`` in a text is two characters, and no interpolation."""
    if isinstance(value, dict):
        return {key: literal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [literal(part) for part in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda found: f"{found[1]}{found[1]}\\${{", value)


class TrainerSettings(Settings):
    """What of Lightning's Trainer a recorded run is done again with."""

    accelerator: str
    devices: int | str | list[int]
    num_nodes: int
    strategy: str
    precision: str
