"""From a file on disk to named tensors, safely: nothing in a file is executed, whatever it claims to be."""

from __future__ import annotations

import argparse
import mmap
import pickle
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mirror_pl.detectors.checkpoint.backbone_folder import BackboneSource
from mirror_pl.detectors.checkpoint.fit import check_weights
from mirror_pl.detectors.checkpoint.names import unwrapped
from mirror_pl.detectors.checkpoint.torch_file import check_torch_file, is_plain
from mirror_pl.errors import CheckpointError, name_list, shown
from mirror_pl.files import read_json

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
FORMAT_VERSION: Final = 1
CONFIG_KEY: Final = "mirror_pl"
"""Key under which a file of ours carries, beside its tensors, the detector's config and where it comes from."""

_ENVELOPES = ("model", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class RawCheckpoint:
    """What a file holds, before any of it is understood.

    Attributes:
        path: Where it came from.
        tensors: Under the names they have in the file.
        config: The detector's config, where the file carries one.
        memory_config: Size of the bank, where a Phase-1 file carries it.
        bank: What a bank that we wrote was learnt from, as `save_bank` says it; empty where unknown.
        backbone: Where the backbone's weights are, all but the adapters', where they were left out of the file.
        training: How the detector was trained, in plain values; empty where nothing is known.
        epoch: Epochs it was trained for, where the file says so.
        hyper_parameters: Of the Lightning module that saved it, in plain values.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    memory_config: Mapping[str, Any] = field(default_factory=dict)
    bank: Mapping[str, Any] = field(default_factory=dict)
    backbone: BackboneSource | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    epoch: int | None = None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, key: str = "checkpoint") -> RawCheckpoint:
    """Read a published ``.pth``, a file of our training, or a folder written by ``mirror_pl.convert``.

    Tensors are memory-mapped where the format allows it: nothing is copied before it is used. They may be changed: the
    mapping is private, and the file stays as it is.

    Args:
        path: The file or folder.
        key: The setting that named it, for messages.

    Raises:
        CheckpointError: If the path is missing, the file damaged or of another kind, or would run code when loaded.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; give another one with {key}=...")
        if path.is_dir() or path.name == WEIGHTS_FILE:
            return _read_folder(path if path.is_dir() else path.parent)
        return _open_envelope(path, _read_pickle(path))
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{key}: {path} cannot be read: {error.strerror or error}") from error


def published_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of somebody else's file, by their names there, without what wrappers put before them.

    Args:
        path: A torch file, in any envelope; a ``.safetensors`` file, or the folder of a ``model.safetensors``.

    Raises:
        CheckpointError: As `read_checkpoint`.
    """
    if path.is_dir():
        path = path / WEIGHTS_FILE
    if path.suffix != ".safetensors":
        return {unwrapped(name): tensor for name, tensor in read_checkpoint(path).tensors.items()}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (ValueError, SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint: {path} cannot be read: {error}") from error
    check_weights(tensors, path)
    return {unwrapped(name): tensor for name, tensor in tensors.items()}


def _read_folder(folder: Path) -> RawCheckpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"no {name} in the folder {folder}; expected a folder written by "
                "python -m mirror_pl.convert, or a checkpoint file"
            )
    try:
        config = read_json(folder / CONFIG_FILE)
        tensors = load_file(folder / WEIGHTS_FILE)
    except (ValueError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    check_weights(tensors, folder)
    if not isinstance(config, dict) or "detector" not in config:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} describes no detector. A Hugging Face backbone folder is given as "
            "backbone_folder=FOLDER, with the detector's file as checkpoint=FILE"
        )
    if config.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {shown(config.get('version'))}, this mirror_pl reads {FORMAT_VERSION}; "
            "convert the original file again, or install the mirror_pl that wrote it"
        )
    return RawCheckpoint(folder, tensors, config=config["detector"], training=_training(config, folder / CONFIG_FILE))


def _read_pickle(path: Path) -> Any:
    # The published files carry their command line as an argparse.Namespace: a plain holder of values, the only class
    # let in besides tensors and containers.
    try:
        is_zip = check_torch_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]), _mapped_privately(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on unusual pickles before it refuses or reads them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except (CheckpointError, OSError):
        raise
    except pickle.UnpicklingError as error:
        wanted = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), None)
        if wanted:  # torch's word for a class or function that a file asks to have called
            raise CheckpointError(
                f"{path} was refused: loading it would run code. It asks for more than tensors and plain values ({wanted})"
            ) from error
        raise CheckpointError(f"{path} is no PyTorch checkpoint, or a damaged one") from error
    except Exception as error:  # a damaged archive surfaces as RuntimeError, EOFError, ValueError, KeyError, ...
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is no PyTorch checkpoint, or a truncated one: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error


def _mapped_privately() -> AbstractContextManager[None]:
    """Whatever a program has set for torch: adapters are merged in place, which must never reach the file."""
    private = getattr(mmap, "MAP_PRIVATE", None)  # Windows has none; there torch knows no other way
    return nullcontext() if private is None else torch.serialization.set_default_mmap_options(private)


def _open_envelope(path: Path, content: Any) -> RawCheckpoint:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict of tensors")
    key = next((key for key in _ENVELOPES if isinstance(content.get(key), dict)), None)
    tensors = content if key is None else content[key]
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(
            f"{path} is not a detector's checkpoint: no dict of tensors under any of "
            f"{name_list(_ENVELOPES)}, nor by itself; it holds {name_list(map(shown, content)) or 'nothing'}"
        )
    check_weights(tensors, path)
    memory_config, epoch, settings = (content.get(name) for name in ("memory_config", "epoch", "hyper_parameters"))
    raw = RawCheckpoint(
        path,
        tensors,
        memory_config=memory_config if isinstance(memory_config, dict) else {},
        epoch=epoch if type(epoch) is int else None,
        hyper_parameters=settings if is_plain(settings) and isinstance(settings, dict) else {},
    )
    if CONFIG_KEY not in content:
        return raw
    ours = content[CONFIG_KEY]
    if isinstance(ours, dict) and isinstance(ours.get("bank"), dict):
        return replace(raw, bank=ours["bank"], training=_training(ours, path))
    if not isinstance(ours, dict) or "detector" not in ours:
        raise CheckpointError(f"{path} is damaged: under {CONFIG_KEY!r} it describes no detector")
    return replace(raw, config=ours["detector"], backbone=_backbone(ours, path), training=_training(ours, path))


def _backbone(ours: Mapping[str, Any], path: Path) -> BackboneSource | None:
    recorded = ours.get("backbone")
    if recorded is None:
        return None
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(key), str) for key in ("path", "sha256")):
        raise CheckpointError(f"{path} is damaged: it does not say which backbone it belongs to, but {shown(recorded)}")
    return BackboneSource(Path(recorded["path"]), recorded["sha256"])


def _training(ours: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    training = ours.get("training", {})
    if not isinstance(training, dict) or not is_plain(training):
        raise CheckpointError(f"{path} is damaged: expected plain values under 'training', got {shown(training)}")
    return training
