"""What the scores of an evaluation depend on, so that a run that goes on, or is done again, is the same run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mirror_pl.config.build_detector import backbone_weights, checkpoint_of
from mirror_pl.config.schema import ScoringSettings
from mirror_pl.errors import CheckpointError
from mirror_pl.files import kept_sha256
from mirror_pl.hub import full_path, origin, with_origin
from mirror_pl.labels import LABEL_NAMES
from mirror_pl.provenance import versions
from mirror_pl.reports.run_folder import is_begun
from mirror_pl.sources.place import path_of

if TYPE_CHECKING:
    from mirror_pl.config.schema import DetectorSettings, EvalSettings
    from mirror_pl.data import BenchmarkDataModule
    from mirror_pl.detectors import Detector
    from mirror_pl.reports import RunFolder

PATHS = ("data_root", "checkpoint", "memory_path", "reals", "backbone.path", "calibration")
"""Settings that name a file or folder which the scores depend on."""


@dataclass(frozen=True)
class WeightsFile:
    """A file or folder of weights, absolute, and the SHA-256 of its bytes; both None where there is none."""

    path: str | None
    sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain values, as run records carry it; a file of the Hugging Face Hub has its id too."""
        return with_origin(asdict(self))


def weights_of(settings: DetectorSettings) -> dict[str, WeightsFile]:
    """Return the weights that ``checkpoint``, ``memory_path`` and the backbone's folder name, by these words.

    Where there is a calibration, its file counts among them.

    Where the checkpoint holds the backbone's weights too, there is no entry of that name.

    Raises:
        ConfigError: If there is no checkpoint.
        CheckpointError: If one cannot be read.
    """
    checkpoint = checkpoint_of(settings)
    source = backbone_weights(settings)
    found = {"checkpoint": _hashed("checkpoint", checkpoint), "memory": _hashed("memory_path", settings.memory_path)}
    if isinstance(settings, ScoringSettings) and settings.calibration is not None:
        found["calibration"] = _hashed("calibration", settings.calibration)
    return found if source is None else {**found, "backbone": WeightsFile(str(source.path), source.sha256)}


def _hashed(setting: str, path: str | None) -> WeightsFile:
    if path is None:
        return WeightsFile(None, None)
    try:
        return WeightsFile(full_path(path), kept_sha256(Path(path)))
    except OSError as error:
        raise CheckpointError(f"{setting}: {path} cannot be read: {error.strerror}") from error


def dependencies(
    weights: Mapping[str, WeightsFile], data: BenchmarkDataModule, detector: Detector, device: str
) -> dict[str, Any]:
    """Return all that a score depends on, besides the settings: weights, data, recipe, batches, device, versions.

    Batches and versions move a score by float rounding only; but a run that goes on is to end as if it had not been stopped.
    """
    index = data.index
    groups = index.manifest.groups
    images = Counter(
        f"{groups[group]}/{LABEL_NAMES[label]}" for group, label in zip(index.group_ids, index.labels, strict=True)
    )
    return {
        **{key: file.sha256 for key, file in weights.items()},
        "data": {"images": dict(images), "fingerprint": index.fingerprint()},
        "detector": detector.description(),
        "images_per_batch": data.images_per_batch,
        "conditions": [condition.facts() for condition in data.conditions],
        "device": device,
        "versions": versions(),
    }


def run_key(facts: Mapping[str, Any], started: datetime) -> bytes:
    """Return 32 bytes that tell a run from others, in the same folder too."""
    return hashlib.sha256(json.dumps([facts, started.isoformat()], sort_keys=True).encode()).digest()


def is_stopped_run(settings: EvalSettings) -> bool:
    """Whether there is a run to go on with."""
    folder = Path(settings.output_dir)
    return settings.resume and is_begun(folder) and not (folder / "run.json").exists()


def is_finished(settings: EvalSettings, folder: RunFolder | None) -> bool:
    """Whether the run is complete already; asked in every process, of which one has the folder."""
    if folder is not None:
        return folder.finished
    return settings.resume and (Path(settings.output_dir) / "run.json").exists()


def with_absolute_paths(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved settings, with paths, or ids on the Hub, that mean the same wherever they are read."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    for setting in PATHS:
        *groups, name = setting.split(".")
        node = plain
        for group in groups:
            node = node[group]
        if node.get(name) is not None:  # the settings of an older run lack what came later
            node[name] = origin(node[name]) or str(path_of(node[name]).resolve())
    labels = {"file": plain["labels"]} if isinstance(plain["labels"], str) else plain["labels"]
    if labels is not None and labels.get("file") is not None:
        plain["labels"] = {**labels, "file": str(Path(labels["file"]).resolve())}
    settings: dict[str, Any] = plain
    return settings
