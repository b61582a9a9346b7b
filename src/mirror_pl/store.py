"""Rows on their way to a result, so that they outlive the process: a folder of Parquet files, each whole or not there.

Any number of processes may add files, each under names of its own; nobody changes one that is there. Who makes the result
of them proves that each row is there once: `PartialScores` by the images' ids, `prediction.outputs` by places in units.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mirror_pl.errors import DataError, OutputError
from mirror_pl.files import whole_file
from mirror_pl.sources.tree import folders_below

SUFFIX: Final = ".parquet"
_KEY: Final = b"mirror_pl.key"
_MOST_BYTES: Final = 2**30
"""Uncompressed, of a part; one that says it is larger was made by somebody else: a few bytes could fill the memory."""


class Store:
    """The parts of one run.

    Args:
        folder: Where they are; made with the first.
        key: Tells the run from others: 32 bytes. Where it is None, parts of any run are read.
    """

    def __init__(self, folder: Path, key: bytes | None) -> None:
        self.folder = folder
        self._key = None if key is None else key.hex().encode()

    def add(self, name: str, rows: pa.Table) -> None:
        """Write a part.

        Args:
            name: Of the part, without the suffix, perhaps in one folder; one that is there already is replaced.
            rows: What is in it.

        Raises:
            OutputError: If it cannot be written. What was written before stays.
        """
        assert self._key is not None
        try:
            self._path(name).parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path(name)) as temporary:
                kept = rows.replace_schema_metadata({**(rows.schema.metadata or {}), _KEY: self._key})
                pq.write_table(kept, temporary, compression="zstd", write_page_checksum=True)
        except (OSError, OutputError) as error:
            cause = error.__cause__ if isinstance(error, OutputError) else error
            number = getattr(cause, "errno", None)  # whose text Arrow has in the middle of a longer one
            raise OutputError(
                f"{self._path(name)} cannot be written: {os.strerror(number) if number else cause}; scores until now are "
                "kept: make room, then go on with resume=true"
            ) from error

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all parts, or of those in one folder, sorted; opens none."""
        found = []
        for listed in folders_below(str(self.folder / folder)):
            inside = "" if listed.path == str(self.folder) else f"{Path(listed.path).name}/"
            found += [
                inside + name.removesuffix(SUFFIX)
                for name in listed.files
                if name.endswith(SUFFIX) and not name.startswith(".")
            ]
        return sorted(found)

    def count(self) -> int:
        """Return how many rows there are in all parts.

        Raises:
            DataError: If a part cannot be read.
        """
        return sum(self._open(name).metadata.num_rows for name in self.names())

    def schema(self, name: str) -> pa.Schema:
        """Return what columns a part has.

        Raises:
            DataError: If it cannot be read, or belongs to another run.
        """
        return self._open(name).schema_arrow

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a part; those columns alone, where they are named.

        Raises:
            DataError: If it cannot be read, is damaged, or belongs to another run.
        """
        try:
            table = self._open(name).read(columns)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise self.damaged(name, error) from error
        return table

    def damaged(self, name: str, why: object) -> DataError:
        """Return the error that says that a part holds something else than it should."""
        reason = " ".join(str(why).split())
        return DataError(
            f"resume: {self._path(name)} holds no scores ({reason}); delete that file, and its images are scored anew"
        )

    def _open(self, name: str) -> pq.ParquetFile:
        path = self._path(name)
        try:
            opened = pq.ParquetFile(path, page_checksum_verification=True)
            groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(name, error) from error
        if sum(group.total_byte_size for group in groups) > _MOST_BYTES:
            raise self.damaged(name, f"it says that it has more than {_MOST_BYTES:,} bytes")
        found = (opened.schema_arrow.metadata or {}).get(_KEY)
        if self._key is not None and found != self._key:
            raise DataError(f"resume: {path} belongs to another run; give another place")
        return opened

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"
