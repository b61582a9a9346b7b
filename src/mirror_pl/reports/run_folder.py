"""A run's folder: everything that is known of one evaluation. ``run.json`` is written last: with it, the run is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.changes import changes, different
from mirror_pl.errors import ConfigError, OutputError, name_list
from mirror_pl.files import FolderLock, claim, read_json, read_yaml, whole_file, write_text
from mirror_pl.reports.published_csv import Delta, deltas_csv, published_csv
from mirror_pl.scores import BenchmarkScores, write_table
from mirror_pl.texts import csv_text, storable

SCHEMA_VERSION = 1


def is_begun(path: Path) -> bool:
    """Whether there is a run in a folder; an empty config is that of one that a full disk stopped before it began."""
    with suppress(OSError):
        return (path / "config.yaml").stat().st_size > 0
    return False


class RunFolder:
    """Writes the files of one run; each is written whole or not at all.

    While a run goes on, it holds a lock, which ends with its process, however that ends.

    Args:
        path: The folder; made if it does not exist.
        resolved_yaml: The settings of the run, all interpolations resolved. Written as ``config.yaml``, which claims the
            folder: of two runs that want it, one gets it.
        resume: Go on with the run that is there, which must have the same settings but for `free`; where there is none,
            begin.
        free: Settings that may be others when the run goes on, with all below them.
        again: With `resume`: accept a run that is complete; `finished` tells.

    Attributes:
        finished: Whether the run was complete before; then nothing is to be written.

    Raises:
        ConfigError: If it holds another run, complete or not: nothing is overwritten. With `resume`, if that run is
            at work, complete, or has other settings.
        OutputError: If it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        resolved_yaml: str,
        *,
        resume: bool = False,
        free: Sequence[str] = ("resume",),
        again: bool = False,
    ) -> None:
        self.path = path
        self._resumed = resume and is_begun(path)
        self.finished = self._resumed and (path / "run.json").exists()
        self._lock = FolderLock(path / ".lock")
        if self.finished:
            if not again:
                raise ConfigError(f"resume: the run in {path} is complete; there is nothing to go on with")
        elif self._resumed:
            self._lock.take()
        if self._resumed:
            self._check_same(resolved_yaml, free)
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            claim(path / "config.yaml", resolved_yaml)
        except FileExistsError as error:
            if not path.is_dir():
                raise OutputError(f"output_dir: {path} is a file; give another output_dir=FOLDER") from error
            complete = (path / "run.json").exists()
            state = "a complete" if complete else "an interrupted or still running"
            going_on = "" if complete else ", or resume=true to go on with it"
            raise ConfigError(
                f"output_dir: {path} holds {state} run already; give another output_dir=FOLDER{going_on}"
            ) from error
        except OSError as error:
            raise OutputError(f"output_dir: {path} cannot be written: {error.strerror}; give another one") from error
        self._lock.take()

    @property
    def parts(self) -> Path:
        """Where scores are until the run is complete."""
        return self.path / "parts"

    def _check_same(self, resolved_yaml: str, free: Sequence[str]) -> None:
        try:
            before = dict(read_yaml(self.path / "config.yaml"))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"resume: {self.path / 'config.yaml'} cannot be read: {error}; give another one") from error
        changed = {
            key
            for key in different(before, yaml.safe_load(resolved_yaml))
            if not any(key == name or key.startswith(f"{name}.") for name in free)
        }
        if changed:
            raise ConfigError(
                f"resume: the run in {self.path} was started with other values of {name_list(sorted(changed))}"
            )

    def hold_to(self, facts: Mapping[str, Any], started: datetime) -> datetime:
        """Record what the scores depend on; in a run that goes on, hold it against what was recorded.

        Returns:
            When the run was started first.

        Raises:
            ConfigError: With what has changed since.
        """
        path = self.parts / "depends_on.json"
        if self._resumed and path.exists():
            try:
                before = read_json(path)
                depended, began = dict(before["facts"]), datetime.fromisoformat(before["started"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"resume: {path} is damaged ({error}); begin anew with another output_dir=FOLDER"
                ) from error
            self.check_unchanged(depended, facts)
            return began
        try:
            self.parts.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.parts} cannot be written: {error.strerror}") from error
        self._write_json("parts/depends_on.json", {"started": started.isoformat(), "facts": facts})
        return started

    def check_unchanged(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Hold what a run that is gone on with depended on against what it would depend on now.

        Raises:
            ConfigError: With what has changed.
        """
        changed = changes(before, now)
        if changed:
            raise ConfigError(
                f"resume: what the run in {self.path} depends on has changed since it was started: {changed}. "
                "Put it back, or give another output_dir=FOLDER"
            )

    def read_facts(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the run, which is complete."""
        try:
            facts: dict[str, Any] = dict(read_json(self.path / "run.json"))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"resume: {self.path / 'run.json'} cannot be read: {error}; give another one") from error
        return facts

    def unlock(self) -> None:
        """Let others go on with the run, which this process does no longer."""
        self._lock.release()

    def release(self) -> None:
        """Give the folder up, before anything else was written: as if it had never been claimed."""
        self._lock.release()
        if self._resumed:
            return
        shutil.rmtree(self.parts, ignore_errors=True)
        (self.path / "config.yaml").unlink()
        with suppress(OSError):  # it may hold what is not ours
            self.path.rmdir()

    def write_predictions(self, table: pa.Table) -> None:
        """Write ``predictions.parquet``, the record."""
        write_table(table, self.path / "predictions.parquet")

    def write_conditions(self, table: pa.Table) -> None:
        """Write ``conditions.parquet``: the prediction table under each condition, named in a column of its own."""
        with whole_file(self.path / "conditions.parquet") as temporary:
            pq.write_table(table, temporary)

    def write_bad_images(self, rows: Iterable[tuple[int, str, str, str, str]]) -> None:
        """Write ``bad_images.csv``: id, path, subset, status and reason of each image not read or scored as it should be."""
        header = ("id", "path", "subset", "status", "reason")
        write_text(self.path / "bad_images.csv", csv_text([header, *(map(storable, row) for row in rows)]))

    def write_report(self, name: str, scores: BenchmarkScores, pooled_row: str | None) -> Path:
        """Write the published report as ``{name}.csv`` and return its path."""
        path = self.path / f"{name}.csv"
        write_text(path, published_csv(scores, pooled_row))
        return path

    def write_metrics(self, index: BenchmarkIndex, scores: BenchmarkScores, **facts: Any) -> None:
        """Write ``metrics.json``: every figure of the report, and what of the benchmark was left out.

        Args:
            index: What was on disk.
            scores: The report.
            facts: Further entries.
        """
        self._write_json(
            "metrics.json",
            {
                "schema_version": SCHEMA_VERSION,
                "benchmark": index.manifest.name,
                "unit": "fraction",
                "subsets": [asdict(row) for row in scores.rows],
                "mean": scores.mean,
                "mean_rows": scores.mean_rows,
                "pooled": asdict(scores.pooled),
                "layouts": index.layouts,
                "paired_with": index.pairs,
                "missing_subsets": index.missing,
                "unreadable_folders": index.unreadable,
                "passed_over": {
                    reason: {"files": count, "examples": index.passed_over.examples[reason]}
                    for reason, count in index.passed_over.counts.items()
                },
                **facts,
            },
        )

    def write_deltas(self, rows: Sequence[Delta]) -> None:
        """Write ``deltas.csv``, measured beside published; nothing where nothing is published."""
        if rows:
            write_text(self.path / "deltas.csv", deltas_csv(rows))

    def complete(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``, last, and remove what was needed only until then."""
        self._write_json("run.json", {"schema_version": SCHEMA_VERSION, **facts})
        shutil.rmtree(self.parts, ignore_errors=True)
        self._lock.release()

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        # Names on disk may hold bytes that are not UTF-8; JSON's own escapes write them.
        write_text(self.path / name, json.dumps(content, indent=2, allow_nan=False) + "\n")
