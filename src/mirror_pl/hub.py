"""Files on the Hugging Face Hub by id, ``hf-hub:org/name[/file][@revision]``: resolved through huggingface_hub to a path.

Its cache, its offline mode (``HF_HUB_OFFLINE=1``) and its tokens hold here as anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mirror_pl.errors import CheckpointError, ConfigError, name_list, nearest, shown
from mirror_pl.locate import miniature_dir
from mirror_pl.pinned_weights import PublishedWeights, published_weights

PREFIX: Final = "hf-hub:"
_FORM: Final = re.compile(
    rf"{PREFIX}(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)
_CACHED: Final = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
_OF_DETECTORS: Final = ("checkpoint", "heads", "input")
"""Settings that name a detector; ``input`` is that of convert."""
_WANTED: Final = ["*.json", "*.safetensors"]


@dataclass(frozen=True)
class HubId:
    """A repository of models, or a file in it.

    Attributes:
        repo: As ``org/name``.
        file: Its path in the repository; None for the folder of its configs and safetensors.
        revision: Branch, tag or commit; None for the one that is pinned, or else ``main``.
    """

    repo: str
    file: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, key: str = "checkpoint") -> HubId:
        """Read an id; `key` is the setting that has it, for messages.

        Raises:
            ConfigError: If it is none.
        """
        match = _FORM.fullmatch(text)
        if match is None or any(part in ("", ".", "..") for part in (match["file"] or "x").split("/")):
            raise ConfigError(
                f"{key}: expected {PREFIX}org/name, {PREFIX}org/name/file or either with @revision, got {shown(text)}"
            )
        return cls(match["repo"], match["file"], match["revision"])

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def download(self) -> str:
        """The command that puts it into the cache."""
        file = f" {self.file}" if self.file else ""
        return f"hf download {self.repo}{file}" + (f" --revision {self.revision}" if self.revision else "")


def local_path(name: str, key: str = "checkpoint") -> str:
    """Return the path of what is named: of an id, its place in huggingface_hub's cache, after a download if need be.

    What exists on this machine under that very name is taken as it is, and so is every other name; but where a detector is
    asked for, "miniature" is the one that is shipped with the package.

    Args:
        name: A path, or an id.
        key: The setting that has it, for messages.

    Raises:
        ConfigError: If it begins as an id, and is none.
        CheckpointError: If there is no such repository, revision or file, or it cannot be had, or it is not what is pinned.
    """
    if name == "miniature" and key in _OF_DETECTORS and not Path(name).exists():
        return str(miniature_dir() / "detector")
    if not name.startswith(PREFIX) or Path(name).exists():
        return name
    asked = HubId.parse(name, key)
    pinned = _pinned(asked)
    if asked.revision is None and pinned:
        asked = replace(asked, revision=HubId.parse(pinned[0].hub or "").revision)
    path = _downloaded(asked, key)
    for weights in pinned:
        file = HubId.parse(weights.hub or "").file or ""
        weights.check(path if asked.file else path / file)
    return str(path)


def origin(path: str | Path) -> str | None:
    """Return the id of a path in huggingface_hub's cache, with its commit; None for any other path."""
    parts = Path(path).absolute().parts
    for place, part in enumerate(parts):
        match = _CACHED.fullmatch(part)
        if match and parts[place + 1 : place + 2] == ("snapshots",) and len(parts) > place + 2:
            return str(HubId(f"{match['org']}/{match['name']}", "/".join(parts[place + 3 :]) or None, parts[place + 2]))
    return None


def full_path(path: str | Path) -> str:
    """Return a path made absolute, and links resolved; but not those of the cache, which lead to files without a name."""
    return str(Path(path).absolute() if origin(path) else Path(path).resolve())


def with_origin(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a record says of a file, its ``path`` among it, with the id under ``hub`` where it is from the Hub."""
    found = None if facts.get("path") is None else origin(facts["path"])
    return facts if found is None else {**facts, "hub": found}


def in_cache(found: HubId) -> Path | None:
    """Return where a file is in the cache, without looking elsewhere; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(found.repo, found.file or "config.json", revision=found.revision)
    return Path(path) if isinstance(path, str) else None


def _pinned(asked: HubId) -> list[PublishedWeights]:
    """Return the published weights that an id names: those of the repository, where it names no file of it."""
    known = [(weights, HubId.parse(weights.hub)) for weights in published_weights().values() if weights.hub]
    return [
        weights
        for weights, there in known
        if there.repo == asked.repo and asked.file in (None, there.file) and asked.revision in (None, there.revision)
    ]


def _downloaded(asked: HubId, key: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        if asked.file is not None:
            return Path(hf_hub_download(asked.repo, asked.file, revision=asked.revision))
        folder = Path(
            snapshot_download(asked.repo, revision=asked.revision, allow_patterns=_WANTED, ignore_patterns=["*/*"])
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{key}: {asked} is gated. Ask for access at https://huggingface.co/{asked.repo}, then log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{key}: {asked}: there is no such repository on the Hub, or it is private; for that, log in: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{key}: {asked}: {asked.repo} has no revision {asked.revision}") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(f"{key}: {asked} {_why_not_cached(asked)}") from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{key}: {asked}: there is no file {asked.file} in {asked.repo}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{key}: {asked} cannot be downloaded: {' '.join(str(error).split())[:300]}") from error
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{key}: {asked} has no safetensors, but {name_list(sorted(file.name for file in folder.iterdir()))}. "
            f"Name the file of its weights, as {PREFIX}{asked.repo}/FILE; or, if they are not in the cache: {asked.download}"
        )
    return folder


def _why_not_cached(asked: HubId) -> str:
    """Say what of an id the cache lacks, and how to get it."""
    from huggingface_hub import constants

    why = "huggingface_hub is offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
    remedy = f"{why}; where there is a network, run: {asked.download}"
    place = Path(constants.HF_HUB_CACHE) / f"models--{asked.repo.replace('/', '--')}"
    refs = {file.relative_to(place / "refs").as_posix(): file for file in (place / "refs").rglob("*") if file.is_file()}
    known = [*refs, *(folder.name for folder in (place / "snapshots").glob("*"))]
    if not known:
        return f"is not in the cache, and {remedy}"
    revision = asked.revision or "main"
    if revision not in known:
        return (
            f"is not in the cache: of {asked.repo}, there is no revision {revision}.{nearest(revision, known)} There are "
            f"{name_list(known)}; {remedy}"
        )
    commit = refs[revision].read_text(encoding="utf-8").strip() if revision in refs else revision
    snapshot = place / "snapshots" / commit
    files = sorted(file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if not file.is_dir())
    return (
        f"is not in the cache: of {asked.repo}, revision {revision}, it has {name_list(files) or 'nothing'}."
        f"{nearest(asked.file or '', files)} {remedy[0].upper()}{remedy[1:]}"
    )
