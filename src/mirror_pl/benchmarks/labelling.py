"""What the names of folders say of the images in them: real, fake, of which class."""

from __future__ import annotations

from mirror_pl.benchmarks.manifest import Layout
from mirror_pl.labels import REAL
from mirror_pl.sources.folder import Folder
from mirror_pl.sources.walk import Walk


def labels_of(listed: Walk, layout: Layout) -> list[int | None]:
    """Label each folder of a walk: by its innermost name that decides one, else as bare, where no folder decides any."""
    by_name = {name.casefold(): label for name, label in layout.labels.items()}

    def label(folder: Folder) -> int | None:
        return next((by_name[part.casefold()] for part in reversed(folder.parts) if part.casefold() in by_name), None)

    labels = [label(folder) for folder in listed.folders]
    if layout.bare is not None and all(label is None for label in labels):
        return [layout.bare] * len(labels)
    return labels


def class_of(folder: Folder, layout: Layout) -> str:
    """Name the folder right above the innermost one that decides a label; "" where that is the subset's, or a tar shard."""
    names = {name.casefold() for name in layout.labels}
    deciding = [position for position, part in enumerate(folder.parts) if part.casefold() in names]
    above = deciding[-1] - 1 if deciding else -1
    is_shard = bool(folder.shard) and above == folder.shard.count("/")
    return folder.parts[above] if above >= 0 and not is_shard else ""


def labels_of_reals(listed: Walk) -> list[int | None]:
    """All images of a shared set are real, but what lies in a folder of fakes."""
    fakes = {"1_fake", "fake", "ai"}
    return [None if fakes & {part.casefold() for part in folder.parts} else REAL for folder in listed.folders]
