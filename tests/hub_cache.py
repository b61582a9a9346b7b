"""A cache of huggingface_hub as it lays it out, made by a test: ``models--org--name/{refs,snapshots,blobs}``."""

from __future__ import annotations

import hashlib
from pathlib import Path

COMMIT, OLDER = "a" * 40, "b" * 40


def put(cache: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT, *refs: str) -> Path:
    """Add a snapshot, and return its folder."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    for name, content in files.items():
        blob = place / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        file = snapshot / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(blob)
    for ref in refs:
        (place / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (place / "refs" / ref).write_text(commit)
    return snapshot


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
