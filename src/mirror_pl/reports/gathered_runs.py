"""Evaluation runs as they are found on disk: which folders are runs, what each says of itself, and what it cannot say.

Nothing is computed here. A folder is a run of ``mirror_pl.eval`` if its ``config.yaml`` says so; with ``run.json`` it is
complete.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirror_pl.errors import DataError, name_list
from mirror_pl.files import read_json, read_yaml
from mirror_pl.labels import FAKE, REAL
from mirror_pl.reports.run_folder import SCHEMA_VERSION
from mirror_pl.scores import SCHEMA, read_table
from mirror_pl.scores.columns import Columns, columns
from mirror_pl.scores.table import CALIBRATED_SCHEMA, raw_logits
from mirror_pl.store import Store
from mirror_pl.texts import printable, storable


@dataclass(frozen=True)
class GatheredRun:
    """A run folder.

    Attributes:
        folder: Where it is.
        settings: Its ``config.yaml``.
        facts: Its ``run.json``; None where the run is not complete.
        metrics: Its ``metrics.json``; empty where the run is not complete.
    """

    folder: Path
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] | None
    metrics: Mapping[str, Any]

    @property
    def benchmark(self) -> str:
        """Name of its benchmark. Folders of one's own are all called "folder"; each is a benchmark by itself."""
        name = printable(self.settings["benchmark"]["name"])
        return f"{name}:{self.data_root}" if name == "folder" else name

    @property
    def title(self) -> str:
        """The benchmark's name in print."""
        title = printable(self.settings["benchmark"].get("title") or self.settings["benchmark"]["name"])
        return f"{title} {Path(self.data_root).name}" if self.settings["benchmark"]["name"] == "folder" else title

    @property
    def group(self) -> str:
        """The part of the published table that the benchmark belongs to."""
        return printable(self.settings["benchmark"].get("group") or "other")

    @property
    def data_root(self) -> str:
        """The folder that paths in the prediction table begin at."""
        root = self.facts["data"]["root"] if self.facts else Path(str(self.settings.get("data_root"))).resolve()
        return storable(root)

    @property
    def checkpoint(self) -> str:
        """Path of the detector's weights, as it was when the run began."""
        return printable(self.facts["checkpoint"]["path"] if self.facts else self.settings.get("checkpoint"))

    @property
    def finished(self) -> datetime:
        """When it was complete."""
        assert self.facts is not None
        return datetime.fromisoformat(self.facts["finished"])

    @property
    def missing_subsets(self) -> tuple[str, ...]:
        """Subsets that were not on disk."""
        return tuple(printable(name) for name in self.metrics.get("missing_subsets", {}))

    @property
    def scored(self) -> int:
        """Images that an incomplete run has scored so far, as far as it has written them down."""
        return Store(self.folder / "parts", None).count()

    def read(self) -> pa.Table:
        """Read the prediction table.

        Raises:
            DataError: If it is missing, damaged, or no prediction table, with what to do.
        """
        path = self.folder / "predictions.parquet"
        try:
            found = pq.read_schema(path)
            if not any(found.equals(schema, check_metadata=False) for schema in (SCHEMA, CALIBRATED_SCHEMA)):
                raise DataError(f"{path}: {_difference(found)}; it is no table that mirror_pl.eval wrote. {_MEND}")
            table = read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {_first_line(error)}. {_MEND}") from error
        if not len(table):
            raise DataError(f"{path} holds no image. {_MEND}")
        _check_values(table, path)
        return table


_MEND = "Evaluate again, or leave this run out"


def find_runs(roots: Sequence[Path]) -> list[GatheredRun]:
    """Read the runs in some folders: each a run itself, or a folder above runs, such as a sweep's.

    Args:
        roots: The folders. A run that is below several of them comes once.

    Raises:
        DataError: If a folder is missing or holds no run, or what a run says of itself cannot be read.
    """
    found: dict[Path, GatheredRun] = {}
    for root in roots:
        if not root.is_dir():
            hint = " is a file; give the folder of the run" if root.exists() else " does not exist"
            raise DataError(f"runs: {root}{hint}")
        below = _runs_below(root)
        if not below:
            raise DataError(
                f"runs: no evaluation is in {root}, nor in any folder below: none has a config.yaml of mirror_pl.eval. "
                "A run is where mirror_pl.eval said that its report is"
            )
        for run in below:
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def sort_runs(roots: Sequence[Path]) -> tuple[list[GatheredRun], list[GatheredRun]]:
    """Read the runs in some folders, as `find_runs`, and return those that are complete and those that are not.

    Raises:
        DataError: As `find_runs`; and if none is complete.
    """
    found = find_runs(roots)
    complete = [run for run in found if run.facts is not None]
    incomplete = [run for run in found if run.facts is None]
    if not complete:
        folders = name_list(str(run.folder) for run in incomplete)
        raise DataError(
            f"runs: none is complete, there is no run.json in {folders}; go on with one by its own command and resume=true"
        )
    return complete, incomplete


def runs_named(roots: Sequence[Path], runs: Sequence[GatheredRun]) -> list[GatheredRun]:
    """Return those whose folders are named, without those of their further heads; where none is, all that lie below."""
    return [run for run in runs if run.folder in roots] or list(runs)


def _runs_below(root: Path) -> list[GatheredRun]:
    runs = []
    for folder, below, files in os.walk(root):
        below.sort()
        below[:] = [name for name in below if not name.startswith(".")]  # such as what is being written
        if "config.yaml" in files:
            run = _read_run(Path(folder))
            if run is not None:
                runs.append(run)
                below[:] = [name for name in below if name == "heads"]  # runs of other heads, which the same pass made
    return runs


def _read_run(folder: Path) -> GatheredRun | None:
    """Read what a run says of itself; None for what is no evaluation, such as a training."""
    complete = (folder / "run.json").exists()
    path = folder / "config.yaml"
    try:
        settings = read_yaml(path)
    except (OSError, ValueError) as error:
        if not complete and not (folder / "predictions.parquet").exists():
            return None  # a config.yaml of somebody else's
        raise DataError(f"{path} cannot be read: {_first_line(error)}. {_MEND}") from error
    benchmark = settings.get("benchmark") if isinstance(settings, Mapping) else None
    if not isinstance(benchmark, Mapping) or "name" not in benchmark or "phase" in settings:
        return None
    if not complete:
        return GatheredRun(folder, settings, None, {})
    facts, metrics = _read_json(folder / "run.json", _FACTS), _read_json(folder / "metrics.json", _METRICS)
    run = GatheredRun(folder, settings, facts, metrics)
    try:
        run.finished.astimezone()
    except ValueError as error:
        raise DataError(f"{folder / 'run.json'}: {error}. {_MEND}") from error
    return run


_FACTS: tuple[tuple[Any, ...], ...] = (
    ("finished", str),
    ("data", Mapping, "root", str),
    ("checkpoint", Mapping, "path", str),
    ("checkpoint", Mapping, "sha256", str),
    ("detector", Mapping),
    ("precision", str),
)
_METRICS = (("benchmark", str), ("missing_subsets", Mapping), ("images", Mapping))
"""What must be there, of which type; further pairs are a key inside, and its type."""


def _read_json(path: Path, expected: Sequence[tuple[Any, ...]]) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}. {_MEND}") from error
    version = content.get("schema_version") if isinstance(content, Mapping) else None
    if not isinstance(version, int):
        raise DataError(f"{path} has no schema_version; mirror_pl.eval did not write it. {_MEND}")
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this mirror_pl reads; update "
            "mirror_pl, or leave this run out"
        )
    for steps in expected:
        value: Any = content
        for key, kind in zip(steps[::2], steps[1::2], strict=True):
            value = value.get(key)
            if not isinstance(value, kind):
                raise DataError(f"{path}: {'.'.join(steps[::2])} is missing, or not what mirror_pl.eval writes. {_MEND}")
    return content


def _check_values(table: pa.Table, path: Path) -> None:
    """Check what every figure rests on: labels are 0 or 1, and what counts as scored has a finite score."""
    data: Columns = columns(table)
    if not np.isin(data.label, (REAL, FAKE)).all():
        raise DataError(f"{path}: a label is neither {REAL}, real, nor {FAKE}, fake. {_MEND}")
    for name, values in (("logit", data.logit), ("p_fake", data.p_fake), ("raw_logit", raw_logits(table))):
        if not np.isfinite(values[data.scored]).all():
            raise DataError(f"{path}: an image that counts as scored has no finite {name}. {_MEND}")


def _difference(found: pa.Schema) -> str:
    missing = [name for name in SCHEMA.names if name not in found.names]
    extra = [name for name in found.names if name not in SCHEMA.names]
    if missing or extra:
        return f"columns missing: {name_list(missing) or 'none'}; unknown: {name_list(extra) or 'none'}"
    name = next(name for name in SCHEMA.names if not found.field(name).equals(SCHEMA.field(name)))
    return f"column {name} is {found.field(name).type}, expected {SCHEMA.field(name).type}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
