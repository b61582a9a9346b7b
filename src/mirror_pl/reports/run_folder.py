"""A run's folder: everything that is known of one evaluation. ``run.json`` is written last: with it, the run is complete."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from mirror_pl.benchmarks import BenchmarkIndex
from mirror_pl.errors import ConfigError
from mirror_pl.files import write_text
from mirror_pl.reports.published_csv import published_csv
from mirror_pl.scores import BenchmarkScores, write_table
from mirror_pl.scores.prediction_table import printable

SCHEMA_VERSION = 1


class RunFolder:
    """Writes the files of one run; each is written whole or not at all.

    Args:
        path: The folder; made if it does not exist.

    Raises:
        ConfigError: If it holds a complete run already: nothing is overwritten.
    """

    def __init__(self, path: Path) -> None:
        if (path / "run.json").exists():
            raise ConfigError(f"output_dir: {path} holds a complete run already; give another output_dir=FOLDER")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output_dir: {path} cannot be made: {error.strerror}; give another one") from error
        self.path = path

    def write_config(self, resolved_yaml: str) -> None:
        """Write ``config.yaml``, the settings of the run, all interpolations resolved."""
        write_text(self.path / "config.yaml", resolved_yaml)

    def write_predictions(self, table: pa.Table) -> None:
        """Write ``predictions.parquet``, the record."""
        write_table(table, self.path / "predictions.parquet")

    def write_bad_images(self, rows: Iterable[tuple[int, str, str, str, str]]) -> None:
        """Write ``bad_images.csv``: id, path, subset, status and reason of each truncated or undecodable image."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["id", "path", "subset", "status", "reason"])
        writer.writerows(tuple(printable(str(value)) for value in row) for row in rows)
        write_text(self.path / "bad_images.csv", buffer.getvalue())

    def write_report(self, name: str, scores: BenchmarkScores) -> Path:
        """Write the published report as ``{name}.csv`` and return its path."""
        path = self.path / f"{name}.csv"
        write_text(path, published_csv(scores))
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
                "missing_subsets": index.missing,
                "unreadable_folders": index.unreadable,
                "passed_over": {
                    reason: {"files": count, "examples": index.passed_over.examples[reason]}
                    for reason, count in index.passed_over.counts.items()
                },
                **facts,
            },
        )

    def complete(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``, last."""
        self._write_json("run.json", {"schema_version": SCHEMA_VERSION, **facts})

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        # Names on disk may hold bytes that are not UTF-8; JSON's own escapes write them.
        write_text(self.path / name, json.dumps(content, indent=2, allow_nan=False) + "\n")
