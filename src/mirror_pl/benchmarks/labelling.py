"""What the names of folders, or a table, say of the images in them: real, fake, of which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mirror_pl.benchmarks.label_rows import LabelRows
from mirror_pl.benchmarks.manifest import Layout
from mirror_pl.labels import FAKE, REAL
from mirror_pl.sources.folder import Folder
from mirror_pl.sources.walk import Walk

LABEL_VALUES: Final = {
    "0": REAL, "1": FAKE, "false": REAL, "true": FAKE, "real": REAL, "fake": FAKE, "0_real": REAL, "1_fake": FAKE,
    "nature": REAL, "ai": FAKE,
}  # fmt: skip
"""What is known of the values in a table, in lower case."""
_NAMED_VALUES: Final = 20
"""Unknown values of a column that are told apart."""


class LabelledFolder(NamedTuple):
    """Images of a folder with one label; a folder may be several of these.

    Attributes:
        folder: They, with nothing else in it but once.
        label: Theirs; None passes them over.
        reason: Why, then.
    """

    folder: Folder
    label: int | None
    reason: str = ""


def labels_of(
    listed: Walk, layout: Layout, rows: LabelRows | None = None, paths: Sequence[str] = (), subset: str | None = None
) -> list[LabelledFolder]:
    """Label the images of a walk: by a table, or by the names of folders.

    Of the names that a folder lies under, the innermost that decides one does; where none does, a Parquet file's label
    column does; where no folder has a label at all, all are as bare. A layout with a table has no such names.

    Args:
        listed: The walk.
        layout: What decides.
        rows: The layout's table, where that is a file.
        paths: What each folder's images lie in, as `rows` is to see it.
        subset: Where a column of `rows` tells subsets apart, the one whose images are wanted; what is no image, and has no
            row, comes with the first.
    """
    known, unknown, result = _known(layout), set[str](), list[LabelledFolder]()
    if rows is not None:
        for folder, path in zip(listed.folders, paths, strict=True):
            keys = [rows.key_of(f"{path}/{name}" if path else name) for name in folder.names]
            if subset is not None and layout.subset_column is not None:
                images = rows.images_of(subset, layout, keys)
                first = subset == next(iter(layout.subsets))
                only = folder.only(images)
                folder = replace(only, others=folder.others, problems=folder.problems) if first else only
                keys = [keys[image] for image in images]
            values = [None if key is None else rows.label_of(key) for key in keys]
            result += _split(folder, values, known, unknown, f"no row in {rows.name}")
        return result
    by_name = {name.casefold(): label for name, label in layout.labels.items()}
    reason = f"no folder {' or '.join(layout.labels)} above" if layout.table is None else "no column of labels"
    for folder in listed.folders:
        deciding = (by_name[part.casefold()] for part in reversed(folder.parts) if part.casefold() in by_name)
        label = None if layout.table is not None else next(deciding, None)
        if label is None and folder.labels:
            result += _split(folder, folder.labels, known, unknown)
        else:
            result.append(LabelledFolder(folder, label, "" if label is not None else reason))
    no_column = not any(folder.labels for folder in listed.folders)
    if layout.bare is not None and layout.table is None and no_column and all(part.label is None for part in result):
        return [LabelledFolder(folder, layout.bare) for folder in listed.folders]
    return result


def _known(layout: Layout) -> Mapping[str, int]:
    if layout.table is not None and layout.table.values is not None:
        return layout.table.values
    return LABEL_VALUES | {name.casefold(): label for name, label in layout.labels.items()}


def _split(
    folder: Folder, values: Sequence[str | None], known: Mapping[str, int], unknown: set[str], no_value: str = ""
) -> list[LabelledFolder]:
    """Split a folder by a value an image: reals, fakes, then those passed over, by the reason.

    Args:
        folder: The folder.
        values: One an image; None where there is none.
        known: Label of each value, in lower case.
        unknown: Values that are named as unknown, to which these are added; there are never many.
        no_value: Why an image without a value is passed over.
    """
    parts: dict[tuple[int | None, str], list[int]] = {(REAL, ""): [], (FAKE, ""): []}
    for image, value in enumerate(values):
        label, reason = (None, no_value) if value is None else (known.get(value.casefold()), "")
        if value is not None and label is None:
            if len(unknown) < _NAMED_VALUES:
                unknown.add(value)
            reason = f"a label that is not known: {value!r}" if value in unknown else "another label that is not known"
        parts.setdefault((label, reason), []).append(image)
    found = [LabelledFolder(folder.only(images), *kind) for kind, images in parts.items() if images]
    whole = LabelledFolder(replace(folder.only([]), others=folder.others, problems=folder.problems), None)
    return [*found, whole] if folder.others or folder.problems else found


def class_of(folder: Folder, layout: Layout) -> str:
    """Name the folder right above the innermost one that decides a label; "" where that is the subset's, or a shard."""
    if layout.table is not None:
        return ""
    names = {name.casefold() for name in layout.labels}
    deciding = [position for position, part in enumerate(folder.parts) if part.casefold() in names]
    above = deciding[-1] - 1 if deciding else -1
    is_shard = bool(folder.shard) and above == folder.shard.count("/")
    return folder.parts[above] if above >= 0 and not is_shard else ""


def labels_of_reals(listed: Walk) -> list[LabelledFolder]:
    """All images of a shared set are real, but what lies in a folder of fakes."""
    fakes = {"1_fake", "fake", "ai"}
    return [
        LabelledFolder(folder, None if fakes & {part.casefold() for part in folder.parts} else REAL)
        for folder in listed.folders
    ]
