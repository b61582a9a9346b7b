"""The published weights that are known, ``configs/weights/*.yaml``: where to get each, its licence, its size and hash."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from mirror_pl.errors import CheckpointError
from mirror_pl.files import kept_sha256, read_yaml
from mirror_pl.locate import config_dir


@dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Attributes:
        name: Of its YAML file.
        title: What it is, in a few words.
        detector: For which ``detector=``.
        file: Where the commands look for it, below ``paths.checkpoints``.
        licence: In one line.
        page: Where a person finds it.
        hub: Its id on the Hugging Face Hub, as `hub.HubId` reads it, with its file; None if it is not there.
        drive: Id of the folder on Google Drive that holds a file of its name; None if there is none.
        bytes: Its size; None where that is not known.
        sha256: In hexadecimal; None where that is not known.
    """

    name: str
    title: str
    detector: str
    file: str
    licence: str
    page: str
    hub: str | None
    drive: str | None
    bytes: int | None
    sha256: str | None

    def check(self, path: Path) -> None:
        """Make sure that `path` is this file, as far as that is known. A file that does not change is read once per process.

        Raises:
            CheckpointError: If its size or its SHA-256 is another.
        """
        name = path.with_name(Path(self.file).name)  # it may have a temporary one yet
        remedy = f"Delete it, then: python -m mirror_pl.weights fetch=[{self.name}]; or get it from {self.page}"
        if self.bytes is not None and path.stat().st_size != self.bytes:
            found = f"expected {self.bytes} bytes, got {path.stat().st_size}"
        elif self.sha256 is not None and (sha256 := kept_sha256(path)) != self.sha256:
            found = f"expected sha256 {self.sha256}, got {sha256}"
        else:
            return
        raise CheckpointError(f"{name} is not {self.title}: {found}. {remedy}")


@cache
def published_weights() -> dict[str, PublishedWeights]:
    """Return all that are known, by name."""
    found = {}
    for file in sorted((config_dir() / "weights").glob("*.yaml")):
        values = read_yaml(file)
        wanted = {field.name for field in fields(PublishedWeights)} - {"name"}
        if values.keys() != wanted:
            raise ValueError(f"{file}: expected the keys {sorted(wanted)}, got {sorted(values)}")
        found[file.stem] = PublishedWeights(name=file.stem, **values)
    return found
