"""Run folders as mirror_pl.eval leaves them, made of numbers: what the report's tests gather."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mirror_pl.scores import Status, make_table, write_table


@dataclass
class Run:
    """A run to write; images are (path, subset, label, logit), a logit of None is undecodable."""

    images: Sequence[tuple[str, str, int, float | None]]
    benchmark: str = "wildrf"
    title: str | None = None
    group: str = "in-the-wild"
    checkpoint: str = "/weights/one.pth"
    sha256: str | None = None
    memory: str | None = None
    precision: str = "32-true"
    name: str = "mirror/tiny"
    facts: Mapping[str, Any] = field(default_factory=dict)
    data_root: str = "/data"
    finished: str = "2026-11-01T10:00:00+00:00"
    missing: Mapping[str, str] = field(default_factory=dict)
    compat: str | None = None
    fingerprint: str = "f" * 64
    settings: Mapping[str, Any] = field(default_factory=dict)
    raw: Sequence[float] | None = None
    """The detector's own logits, of a calibrated run."""

    def write(self, folder: Path) -> Path:
        """Write all files of a complete run."""
        self.write_incomplete(folder)
        paths, subsets, labels, logits = zip(*self.images, strict=True)
        names = list(dict.fromkeys(subsets))
        ids = list(dict.fromkeys(paths))
        logit = np.array([np.nan if value is None else value for value in logits], np.float32)
        table = make_table(
            ids=np.array([ids.index(path) for path in paths]),
            paths=paths,
            benchmark=self.benchmark,
            subsets=names,
            subset_ids=np.array([names.index(subset) for subset in subsets]),
            labels=np.array(labels),
            statuses=np.where(np.isnan(logit), Status.UNDECODABLE, Status.OK),
            logits=logit,
            p_fake=1 / (1 + np.exp(-logit)),
            raw_logits=None if self.raw is None else np.array(self.raw, np.float32),
        )
        write_table(table, folder / "predictions.parquet")
        metrics = {"benchmark": self.benchmark, "missing_subsets": self.missing, "images": {}, "compat": self.compat}
        self.write_json(folder / "metrics.json", metrics)
        facts = {
            "started": self.finished,
            "finished": self.finished,
            "data": {"root": self.data_root, "fingerprint": self.fingerprint},
            "checkpoint": {"path": self.checkpoint, "sha256": self.sha256 or self.checkpoint.encode().hex().ljust(64, "0")},
            "memory": {"path": self.memory, "sha256": self.memory},
            "miniature": False,
            "detector": {"name": self.name},
            "precision": self.precision,
            **self.facts,
        }
        self.write_json(folder / "run.json", facts)
        return folder

    def write_incomplete(self, folder: Path) -> Path:
        """Write what an interrupted run leaves."""
        folder.mkdir(parents=True)
        benchmark = {"name": self.benchmark, "title": self.title or self.benchmark, "group": self.group}
        config = {"benchmark": benchmark, "checkpoint": self.checkpoint, "data_root": self.data_root, **self.settings}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    @staticmethod
    def write_json(path: Path, content: Mapping[str, Any]) -> None:
        path.write_text(json.dumps({"schema_version": 1, **content}))


def images(
    sizes: Mapping[str, tuple[int, int]], right: float = 0.8, seed: int = 0, root: str = "set"
) -> list[tuple[str, str, int, float | None]]:
    """Return images of some subsets, (reals, fakes) each, of which a detector decides about the share `right` rightly."""
    generator = np.random.default_rng(seed)
    found: list[tuple[str, str, int, float | None]] = []
    for subset, counts in sizes.items():
        for label, count in enumerate(counts):
            for number in range(count):
                way = (1 if label else -1) * (1 if generator.random() < right else -1)
                logit = float(way * generator.uniform(0.1, 4))
                found.append((f"{root}/{subset}/{('0_real', '1_fake')[label]}/{number:04d}.png", subset, label, logit))
    return found
