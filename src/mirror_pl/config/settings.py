"""The top-level settings of each command, with their types and ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from mirror_pl.errors import ConfigError
from mirror_pl.scores import Compat

# OmegaConf reads types from the annotations at run time, and under Python 3.10 knows Optional only.
# ruff: noqa: UP007, UP045


@dataclass
class BackboneSettings:
    """Which architecture: by name, by a Hugging Face folder, or (neither) as the checkpoint has it."""

    name: Optional[str]
    path: Optional[str]


@dataclass
class LoadSettings:
    """Which detector is expected, and how it is loaded."""

    name: str
    merge_lora: bool
    size: Optional[dict[str, int]]


@dataclass
class DetectorSettings:
    """Which detector, and what of an image it sees: the settings that ``mirror_pl.eval`` and ``predict`` share."""

    backbone: BackboneSettings
    detector: LoadSettings
    checkpoint: Optional[str]
    memory_path: Optional[str]
    compile: bool
    crops: Optional[str]
    aggregate: str
    aggregate_of: str
    top_fraction: float
    batch_size: Union[int, str]
    num_workers: Optional[int]

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        if self.batch_size != "auto" and (isinstance(self.batch_size, str) or self.batch_size < 1):
            raise ConfigError(f"batch_size must be auto or a whole number of at least 1, got {self.batch_size}")
        if self.num_workers is not None and self.num_workers < 0:
            raise ConfigError(f"num_workers must be 0 or more, or null for one a core, got {self.num_workers}")


@dataclass
class EvalSettings(DetectorSettings):
    """Settings of ``mirror_pl.eval``; ``configs/eval.yaml`` says what each is."""

    data_root: str
    reals: Optional[str]
    tf32: bool
    cache_dir: Optional[str]
    cache_limit_gb: float
    output_dir: str
    resume: bool
    repeat: Optional[str]
    save_every_s: float
    require_all: bool
    per_class: bool
    max_bad_fraction: float
    compat: Optional[str]

    @property
    def quirks(self) -> Compat:
        """`compat`, once it is checked."""
        return "published" if self.compat == "published" else None

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().check()
        if not 0 < self.cache_limit_gb < float("inf"):
            raise ConfigError(f"cache_limit_gb must be more than 0, got {self.cache_limit_gb}")
        if not 0 <= self.save_every_s < float("inf"):
            raise ConfigError(f"save_every_s must be 0 or more, got {self.save_every_s}")
        if self.resume and self.repeat is not None:
            raise ConfigError("repeat and resume: a repetition is a run of its own; give one of the two")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"max_bad_fraction must be between 0 and 1, got {self.max_bad_fraction}")
        if self.compat not in (None, "published"):
            raise ConfigError(f"compat must be null or published, got {self.compat}")


FREE_SETTINGS = (
    "output_dir", "resume", "repeat", "save_every_s", "num_workers", "cache_dir", "cache_limit_gb",
    "data.num_workers", "data.cache_dir", "data.cache_limit_gb", "data.index_cache",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.default_root_dir",
    "callbacks", "logger", "paths",
)  # fmt: skip
"""Settings of an evaluation that change neither a score nor a report; a resumed run may have other ones."""


@dataclass
class PredictSettings(DetectorSettings):
    """Settings of ``mirror_pl.predict``; ``configs/predict.yaml`` says what each is."""

    input: list[str]
    output: str
    device: str
    precision: str
    max_megapixels: float
    timeout_s: float
    maps: Optional[str]
    resume: bool
    save_every_s: float

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().check()
        if self.maps is not None and self.resume:
            raise ConfigError(
                "maps and resume: maps are made of pictures as they are scored, and those of a stopped run have been; leave "
                "maps out, or begin anew"
            )
        if not self.input:
            raise ConfigError("input: none is named; give files, folders or lists: mirror_pl.predict PATH... output=FILE")
        for name in ("max_megapixels", "timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be more than 0, got {getattr(self, name)}")
        if not 0 <= self.save_every_s < float("inf"):
            raise ConfigError(f"save_every_s must be 0 or more, got {self.save_every_s}")


@dataclass
class AppSettings(DetectorSettings):
    """Settings of ``mirror_pl.app``; ``configs/app.yaml`` says what each is."""

    device: str
    precision: str
    host: str
    port: int
    hosts: list[str]
    root_path: Optional[str]
    max_upload_mb: float
    max_files: int
    max_megapixels: float

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().check()
        if self.num_workers == 0:
            raise ConfigError("num_workers must be at least 1, or null for 2, got 0")
        if self.precision not in ("32-true", "bf16-mixed", "16-mixed"):
            raise ConfigError(f"precision must be 32-true, bf16-mixed or 16-mixed, got {self.precision}")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port must be from 0, for any that is free, to 65535, got {self.port}")
        for host in self.hosts:
            if not host or "/" in host:
                raise ConfigError(f"hosts must be names, such as hosts=[example.org], got {host!r}")
        for name in ("max_upload_mb", "max_megapixels"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.max_files < 1:
            raise ConfigError(f"max_files must be at least 1, got {self.max_files}")


@dataclass
class ConvertSettings:
    """Settings of ``mirror_pl.convert``; ``configs/convert.yaml`` says what each is."""

    backbone: BackboneSettings
    input: str
    output: str
    memory_path: Optional[str]
    merge_lora: bool
    dtype: str

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be float32 or bfloat16, got {self.dtype}")


@dataclass
class CheckDataSettings:
    """Settings of ``mirror_pl.check_data``; ``configs/check_data.yaml`` says what each is."""

    data_root: str
    reals: Optional[str]
    decode: bool
    json: Optional[str]

    def check(self) -> None:
        """Every value of these types is in range."""


@dataclass
class ReportSettings:
    """Settings of ``mirror_pl.report``; ``configs/report.yaml`` says what each is."""

    runs: list[str]
    output_dir: str
    level: float
    replicates: int
    seed: int
    threshold_from: Optional[str]
    compare: Optional[list[str]]
    images: bool
    worst: int

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        if not self.runs:
            raise ConfigError("runs: none is named; give run folders, or a folder above them: mirror_pl.report outputs/eval")
        if not 0 < self.level < 1:
            raise ConfigError(f"level must be more than 0 and less than 1, such as 0.95, got {self.level}")
        if self.replicates < 1:
            raise ConfigError(f"replicates must be at least 1, got {self.replicates}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")
        if self.worst < 0:
            raise ConfigError(f"worst must be 0 or more, got {self.worst}")
        if self.compare is not None and len(set(self.compare)) < 2:
            raise ConfigError(f"compare must be null or name two detectors or more, got {self.compare}")


@dataclass
class GallerySettings:
    """Settings of ``mirror_pl.gallery``; ``configs/gallery.yaml`` says what each is."""

    runs: list[str]
    output_dir: str
    count: int
    images: bool
    maps: bool

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        if not self.runs:
            raise ConfigError("runs: none is named; give a run folder: mirror_pl.gallery outputs/eval/genimage/TIME")
        if self.count < 1:
            raise ConfigError(f"count must be at least 1, got {self.count}")
        if self.maps and not self.images:
            raise ConfigError("maps and images: maps are laid over images; images=false leaves both out")


@dataclass
class MemoryPhaseSettings:
    """What Phase 1 learns, and how; ``configs/phase/memory.yaml`` says what each is."""

    name: str
    epochs: int
    learning_rate: float
    weight_decay: float
    orthogonality: float
    loss_form: str
    init: str
    slots: int
    heads: int
    top_k: int
    drop_registers: bool
    feature_cache: Optional[str]


@dataclass
class DetectorPhaseSettings:
    """What Phase 2 and the probe learn, and how; ``configs/phase/detector.yaml`` says what each is."""

    name: str
    epochs: int
    learning_rate: float
    warm_up_epochs: float
    last_learning_rate: float
    weight_decay: float
    label_smoothing: float
    retrieval_gradient: bool
    lora_rank: Optional[int]
    lora_alpha: float
    top_k: Optional[int]
    drop_registers: Optional[bool]
    rope_rescale: Optional[float]
    gradient_checkpointing: bool
    self_contained: bool
    validate_every: int
    patience: Optional[int]


@dataclass
class TrainSettings:
    """Settings of ``mirror_pl.train`` in every phase; ``configs/train.yaml`` says what each is."""

    backbone: BackboneSettings
    batch_size: int
    num_workers: Optional[int]
    seed: int
    output_dir: str
    resume: bool
    save_every_steps: int

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        for name in ("batch_size", "save_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_workers is not None and self.num_workers < 0:
            raise ConfigError(f"num_workers must be 0 or more, or null for one a core, got {self.num_workers}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")


@dataclass
class MemoryTrainSettings(TrainSettings):
    """Settings of ``mirror_pl.train phase=memory``."""

    phase: MemoryPhaseSettings


@dataclass
class DetectorTrainSettings(TrainSettings):
    """Settings of ``mirror_pl.train phase=detector`` and ``phase=probe``."""

    phase: DetectorPhaseSettings
    memory_path: Optional[str]

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().check()
        if self.phase.validate_every < 1:
            raise ConfigError(f"phase.validate_every must be at least 1, got {self.phase.validate_every}")
        if self.phase.patience is not None and self.phase.patience < 1:
            raise ConfigError(f"phase.patience must be at least 1, or null for never, got {self.phase.patience}")


@dataclass
class MiniaturePhaseSettings:
    """What the miniature is made of; ``configs/phase/miniature.yaml`` says what each is."""

    name: str
    world: Optional[str]
    bank: str


@dataclass
class MiniatureSettings:
    """Settings of ``mirror_pl.train experiment=miniature``; its parts have those of their own commands."""

    phase: MiniaturePhaseSettings
    num_workers: Optional[int]
    seed: int
    output_dir: str
    resume: bool

    def check(self) -> None:
        """Raise ConfigError for a value out of range."""
        if self.phase.bank not in ("real", "mixed", "fake"):
            raise ConfigError(f"phase.bank must be real, mixed or fake, got {self.phase.bank}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")
