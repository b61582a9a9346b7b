"""Files without backbone weights: finding the folder these were left in, and making sure that it is the same one."""

from __future__ import annotations

from pathlib import Path

from mirror_pl.detectors.checkpoint.backbone_folder import CONFIG, BackboneSource, backbone_sha256
from mirror_pl.detectors.checkpoint.read import RawCheckpoint, read_checkpoint
from mirror_pl.errors import CheckpointError
from mirror_pl.hub import origin


def backbone_source(
    checkpoint: str | Path, backbone_folder: Path | None = None, key: str = "checkpoint"
) -> BackboneSource | None:
    """Return where the backbone weights of a checkpoint are; None if they are in it. See `find_backbone`."""
    return find_backbone(read_checkpoint(Path(checkpoint), key), backbone_folder, key)


def find_backbone(raw: RawCheckpoint, backbone_folder: Path | None, key: str = "checkpoint") -> BackboneSource | None:
    """Return the folder that a file's backbone weights are to be read from; None if the file holds them.

    Args:
        raw: The file.
        backbone_folder: Where they are; None looks where they were when the file was written.
        key: The setting that named the file, for messages.

    Raises:
        CheckpointError: If there is no such folder, or it holds other weights than those the file was written with.
    """
    recorded = raw.backbone
    if recorded is None:
        return None
    folder = recorded.path if backbone_folder is None else backbone_folder
    where = origin(recorded.path) or "FOLDER"
    remedy = f"Give the Hugging Face folder it was trained with, or a copy of it, as backbone_folder={where}"
    if not _is_there(folder):
        raise CheckpointError(
            f"{key}: {raw.path} holds no backbone weights, and there is no {CONFIG} in {folder}. Expected the folder "
            f"that was {recorded.path} when the file was written, with sha256 {recorded.sha256}. {remedy}"
        )
    found = backbone_sha256(folder)
    if found != recorded.sha256:
        raise CheckpointError(
            f"{key}: the backbone in {folder} is another one than {raw.path} was trained with: expected sha256 "
            f"{recorded.sha256} (then in {recorded.path}), got {found}. {remedy}"
        )
    return BackboneSource(folder.resolve(), found)


def _is_there(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file()
    except OSError:  # what was recorded may be closed to this user, or no path on this machine
        return False
