"""From settings to a detector: whichever it is, from which files, and for which crops; kept for the next job of a sweep."""

from __future__ import annotations

import gc
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch

from mirror_pl.config.schema import BackboneSettings, CheckpointSettings, DetectorSettings, ScoringSettings
from mirror_pl.detectors import BackboneConfig, CropPolicy, Detector, MirrorDetector, load_detector
from mirror_pl.detectors.checkpoint import BackboneSource, backbone_source, calibration_for
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.detectors.quantise import quantise
from mirror_pl.detectors.registry import detector_class, needs_backbone, settings_of, trained_file
from mirror_pl.detectors.scoring import PRECISIONS
from mirror_pl.detectors.variants import variant_name
from mirror_pl.errors import CheckpointError, ConfigError, nearest
from mirror_pl.files import kept_sha256, path_state
from mirror_pl.images import Condition, condition_of
from mirror_pl.locate import miniature_dir

if TYPE_CHECKING:
    from mirror_pl.calibration import Calibration


def checkpoint_of(settings: CheckpointSettings) -> str:
    """Return the checkpoint that was named, or that detector, backbone or benchmark bring.

    Raises:
        ConfigError: If there is none, or a setting is given that the detector does not have.
        CheckpointError: If it is another detector's than MIRROR, and not there.
    """
    kind = kind_of_detector(settings)
    for option in settings.detector.options:
        if option not in (known := settings_of(kind)):
            raise ConfigError(f"detector.{option}: {kind.__name__} has no such setting.{nearest(option, known)}")
    if kind is not MirrorDetector:
        _check_files(settings, kind)
    elif settings.checkpoint is None:
        weights = f"there are no published weights for backbone={settings.backbone.name}"
        raise ConfigError(
            f"checkpoint: none was given{f', and {weights}' if settings.backbone.name else ''}; give "
            "checkpoint=FILE_OR_FOLDER, or backbone=dinov3_hplus for the published weights"
        )
    return str(settings.checkpoint)


def kind_of_detector(settings: CheckpointSettings) -> type[Detector]:
    """Return the class of the detector that ``detector=`` or ``detector._target_=`` chose.

    Raises:
        ConfigError: As `detector_class`.
    """
    return detector_class(settings.detector.target or settings.detector.name, settings.trusted)


def build_backbone(settings: BackboneSettings) -> BackboneConfig | None:
    """Return the architecture that ``backbone=`` or ``backbone.path=`` chose; None leaves it to the checkpoint."""
    folder = backbone_folder(settings)
    if folder is not None:
        return read_backbone_folder(folder)
    return None if settings.name is None else known_backbone(settings.name)


def backbone_folder(settings: BackboneSettings) -> Path | None:
    """Return the Hugging Face folder that ``backbone.path=`` named."""
    return None if settings.path is None else Path(settings.path)


def backbone_weights(settings: CheckpointSettings) -> BackboneSource | None:
    """Return where the backbone's weights come from, with their hash; None where the checkpoint holds them.

    Raises:
        CheckpointError: If they cannot be read.
    """
    folder = backbone_folder(settings.backbone)
    if kind_of_detector(settings) is MirrorDetector:
        return backbone_source(checkpoint_of(settings), folder)
    if folder is None or trained_file(Path(checkpoint_of(settings))) is not None:
        return None
    if folder.is_dir() and any(folder.glob("*.safetensors")):
        return BackboneSource.of(folder)
    described = folder / "config.json" if folder.is_dir() else folder  # of a backbone whose weights are in the checkpoint
    return BackboneSource(folder.resolve(), kept_sha256(described))


def build_policy(settings: DetectorSettings) -> CropPolicy:
    """Return which crops are scored and how they become one score.

    Raises:
        ConfigError: If a setting is none of those there are, or out of range.
    """
    published = kind_of_detector(settings).protocol
    return CropPolicy(settings.crops or published.crops, settings.aggregate, settings.aggregate_of, settings.top_fraction)


def build_condition(settings: ScoringSettings) -> Condition:
    """Return what is done to an image before it is scored.

    Raises:
        ConfigError: If there is no such operation, or a level is out of range.
    """
    return condition_of(settings.perturb, settings.perturb_seed, settings.format_align)


def is_miniature(checkpoint: str | None) -> bool:
    """Whether the checkpoint is the one shipped with the package, which is no detector for the real world."""
    return checkpoint is not None and Path(checkpoint).resolve().is_relative_to(miniature_dir().resolve())


@dataclass(frozen=True)
class _Kept:
    """A detector, what it was asked for with, and what its tensors were when it was loaded."""

    request: tuple[Any, ...]
    tensors: dict[str, tuple[torch.dtype, torch.Size]]
    detector: Detector


_kept: _Kept | None = None
"""The detector of the job before. One only: two large ones would not fit into the memory that one was planned for."""


def build_detector(
    settings: DetectorSettings, precision: str = "32-true", device: torch.device | str = "cpu"
) -> tuple[Detector, bool]:
    """Load the detector that ``detector``, ``checkpoint``, ``memory_path`` and ``backbone`` name, or that of the job before.

    The jobs of a sweep run one after another in one process. A job gets the detector of the one before if all settings that
    make a detector are the same, its files have not been written to, and the job before left its tensors as they were: a
    strategy that wraps modules does not.

    Args:
        settings: Of a command.
        precision: Of the backbone, by Lightning's names. One that is none of `PRECISIONS` is left to Lightning.
        device: Where it is going to score, and is quantised.

    Returns:
        The detector, in eval mode, and whether it is that of the job before. Its device is left to the trainer, unless it
        was quantised.

    Raises:
        ConfigError: If there is no checkpoint to load, or it is of another variant than was named, or the calibration is
            another detector's, or it cannot be quantised, see `quantise`.
        CheckpointError: As `load_detector`.
    """
    global _kept
    checkpoint = checkpoint_of(settings)
    kept, _kept = _kept, None
    is_mirror = kind_of_detector(settings) is MirrorDetector
    backbone = build_backbone(settings.backbone) if is_mirror else None
    # With its hash, where the checkpoint holds no backbone weights.
    source = backbone_weights(settings)
    paths = [None if path is None else Path(path).resolve() for path in (checkpoint, settings.memory_path)]
    # Before the load: files that change while they are read are not those that were asked for.
    states = ((path, path and path_state(path)) for path in paths)
    dtype = PRECISIONS.get(precision, PRECISIONS["32-true"]).weights
    eight_bits = settings.quantise and (settings.quantise, precision, str(device))
    request = (settings.detector, settings.compile, eight_bits, dtype, backbone, source, *states)
    if kept is not None and kept.request == request and kept.tensors == _tensors_of(kept.detector):
        _kept = kept
        kept.detector.calibration = _calibration(settings, kept.detector)
        return kept.detector.requires_grad_(False).eval(), True
    if kept is not None:
        del kept
        gc.collect()  # Lightning's trainer and module hold each other, and with them the detector of the job before
    detector = _mirror(settings, backbone, dtype) if is_mirror else loaded(settings, dtype=dtype)
    if settings.quantise:
        quantise(detector.to(device), settings.quantise, precision=precision)
    if settings.compile:
        _keep_compiled(Path(settings.compile_cache))
        detector.compile_backbone()
    _kept = _Kept(request, _tensors_of(detector), detector)
    detector.calibration = _calibration(settings, detector)
    return detector, False


def _keep_compiled(folder: Path) -> None:
    """Let torch keep what it compiles in a folder, from here on; when it is imported, it chooses one of its own.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"compile_cache: {folder} cannot be written: {error.strerror}; give compile_cache=FOLDER"
        ) from error
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.absolute())


def _calibration(settings: DetectorSettings, detector: Detector) -> Calibration | None:
    """Read the calibration that settings name, for a detector and the crops that are scored."""
    protocol = asdict(build_policy(settings))
    return calibration_for(detector.name, checkpoint_of(settings), settings.calibration, settings.abstain, protocol)


def _mirror(settings: DetectorSettings, backbone: BackboneConfig | None, dtype: torch.dtype) -> MirrorDetector:
    if settings.detector.size is not None:
        raise ConfigError("detector.size: the checkpoint or backbone=NAME says it; leave detector.size out")
    detector = load_detector(
        checkpoint_of(settings),
        backbone=backbone,
        backbone_folder=backbone_folder(settings.backbone),
        memory_path=settings.memory_path,
        merge=settings.detector.merge_lora,
        dtype=dtype,
    )
    # detector=mirror takes what the checkpoint says it is.
    asked, found = settings.detector.name, variant_name(detector.config.head)
    if asked not in ("mirror", found):
        raise ConfigError(
            f"detector={asked}: {settings.checkpoint} holds a {found}, whose head looks at "
            f"{', '.join(detector.config.head.inputs)}; leave detector out to evaluate what the checkpoint holds"
        )
    return detector


def loaded(settings: CheckpointSettings, merge: bool = True, dtype: torch.dtype = torch.float32) -> Detector:
    """Load a detector with the settings that its class takes, its backbone's weights in `dtype`.

    Raises:
        ConfigError, CheckpointError: As `load_detector`.
    """
    merge = merge and settings.detector.merge_lora
    kind = kind_of_detector(settings)
    return load_detector(checkpoint_of(settings), detector=kind, merge=merge, dtype=dtype, **_given(settings))


def _given(settings: CheckpointSettings) -> dict[str, Any]:
    """Return what was given of the settings that a detector's `load` may take, by the names it has there."""
    values = {
        "backbone_folder": settings.backbone.path,
        "memory_path": settings.memory_path,
        "size": settings.detector.size,
        **settings.detector.options,
    }
    return {name: value for name, value in values.items() if value is not None}


def _check_files(settings: CheckpointSettings, kind: type[Detector]) -> None:
    """Refuse settings that a detector does not have, and say which files it wants.

    Raises:
        ConfigError, CheckpointError: See above.
    """
    name = settings.detector.target or settings.detector.name
    wanted = f"detector={name} wants {kind.files} (docs/other-detectors.md)"
    if settings.checkpoint is None or not Path(settings.checkpoint).exists():
        where = f"{settings.checkpoint} does not exist" if settings.checkpoint else "not given"
        raise CheckpointError(
            f"checkpoint: {where}. {wanted}; give checkpoint=..., or paths.checkpoints=FOLDER of its files. Where "
            "to get them: python -m mirror_pl.weights"
        )
    path = settings.backbone.path
    if needs_backbone(kind) and not (path and Path(path).exists()) and trained_file(Path(settings.checkpoint)) is None:
        where = f"{path} does not exist" if path else "not given"
        raise CheckpointError(f"backbone.path: {where}. {wanted}; give backbone.path=..., or paths.checkpoints=FOLDER")
    known = settings_of(kind)
    if path is not None and "backbone_folder" not in known:
        raise ConfigError(f"backbone.path: detector={name} has its backbone in its checkpoint; leave backbone.path out")
    if settings.memory_path is not None and "memory_path" not in known:
        raise ConfigError(f"memory_path: detector={name} has no memory bank; leave memory_path out")
    if settings.backbone.name is not None:
        raise ConfigError(f"backbone={settings.backbone.name}: detector={name} has its own; leave backbone out")
    if settings.detector.size is not None and "size" not in known:
        raise ConfigError(f"detector.size: detector={name} has no sizes to choose; leave detector.size out")


def _tensors_of(detector: Detector) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in detector.state_dict().items()}
