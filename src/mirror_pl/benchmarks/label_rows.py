"""The rows of a CSV file that say which images are real and which are fake, and which image each row is of."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from mirror_pl.benchmarks.manifest import LabelTable, Layout
from mirror_pl.errors import DataError, name_list

PATH_COLUMNS: Final = ("path", "image_path", "image", "filename", "file", "file_name", "name", "id", "image_id")
"""Columns that images are looked for in, whatever the letter case."""
LABEL_COLUMNS: Final = ("label", "labels", "target", "class", "is_fake", "ai")
"""Columns that labels are looked for in, likewise."""


class LabelRows:
    """A table of labels.

    Args:
        file: The CSV file; its first line names the columns.
        table: Which of them are meant.
        setting: What the table was given by, for messages.
        subset_column: Column that says which subset an image is in; None for none.

    Attributes:
        name: Of the file.
        unused: Images that rows are of to which none was found; shrinks while they are.

    Raises:
        DataError: If the file cannot be read, a column is not there, or two rows give one image different labels.
    """

    def __init__(self, file: Path, table: LabelTable, setting: str, subset_column: str | None = None) -> None:
        self.name = file.name
        self._where = f"{setting}: {file}"
        self._labels: dict[str, str] = {}
        self._subsets: dict[str, str] = {}
        self._images: dict[str, str] = {}
        lines: dict[str, int] = {}
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                rows = csv.reader(opened)
                columns = next(rows, [])
                path = self._column(columns, table.path, PATH_COLUMNS, f"{setting}.path")
                label = self._column(columns, table.label, LABEL_COLUMNS, f"{setting}.label")
                subset = None if subset_column is None else self._column(columns, subset_column, (), "subset_column")
                for row in rows:
                    if not any(row):
                        continue
                    if len(row) <= max(path, label, subset or 0):
                        raise DataError(f"{self._where}: line {rows.line_num} has {len(row)} of {len(columns)} columns")
                    key = "/".join(part for part in row[path].strip().replace("\\", "/").split("/") if part not in ("", "."))
                    text = row[label].strip()
                    if self._labels.setdefault(key, text) != text:
                        raise DataError(
                            f"{self._where}: {key} is {self._labels[key]} in line {lines[key]}, and {text} in line "
                            f"{rows.line_num}; give each image one label"
                        )
                    value = "" if subset is None else row[subset].strip().casefold()
                    if self._subsets.setdefault(key, value) != value:
                        raise DataError(
                            f"{self._where}: {key} has {subset_column} {self._subsets[key]} in line {lines[key]}, and "
                            f"{value} in line {rows.line_num}; give each image one subset"
                        )
                    lines.setdefault(key, rows.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(
                f"{self._where} cannot be read: {reason}; give a CSV file, in UTF-8, with a row an image"
            ) from error
        self.unused = dict.fromkeys(self._labels)

    def _column(self, columns: list[str], wanted: str | None, known: Collection[str], setting: str) -> int:
        by_folded = {name.strip().casefold(): place for place, name in reversed(list(enumerate(columns)))}
        found = [by_folded[name.casefold()] for name in ([wanted] if wanted else known) if name.casefold() in by_folded]
        if not found:
            expected = wanted or name_list(known, 20)
            raise DataError(
                f"{self._where}: no column {expected}; its columns are {name_list(columns, 20) or 'none'}. Name one by "
                f"{setting}"
            )
        return found[0]

    def key_of(self, path: str) -> str | None:
        """Return which row is of an image: the one that ends like the image's path, the longest such; None if none does.

        With and without the suffix of the image's name; a row with it comes first.
        """
        for whole in (path, path.removesuffix(PurePosixPath(path).suffix)):
            rest = whole
            while rest:
                if rest in self._labels:
                    return rest
                rest = rest.partition("/")[2]
        return None

    def label_of(self, key: str) -> str:
        """Return the label in a row, as text, by what `key_of` returned."""
        return self._labels[key]

    def images_of(self, subset: str, layout: Layout, keys: Sequence[str | None]) -> list[int]:
        """Return which images are of a subset, by their positions in `keys`; the first subset's are those without a row too.

        Args:
            subset: The subset.
            layout: Which values of its column each subset has.
            keys: What `key_of` returned, an image.

        Raises:
            DataError: If a row has a value that no subset has.
        """
        by_value = {value: name for name, values in layout.subsets.items() for value in values}
        first = next(iter(layout.subsets))
        found = []
        for image, key in enumerate(keys):
            value = None if key is None else self._subsets[key]
            if value is not None and value not in by_value:
                raise DataError(
                    f"{self._where}: {key} has {layout.subset_column} {value!r}; expected one of {name_list(by_value, 20)}"
                )
            if (first if value is None else by_value[value]) == subset:
                found.append(image)
        return found

    def use(self, paths: Iterable[str]) -> None:
        """Take the rows of these images.

        Raises:
            DataError: If one was taken for another image.
        """
        for path in paths:
            key = self.key_of(path)
            if key is None:
                continue
            if self._images.setdefault(key, path) != path:
                raise DataError(
                    f"{self._where}: the row of {key} is of two images, {self._images[key]} and {path}; write more of "
                    "their paths into the table"
                )
            self.unused.pop(key, None)
