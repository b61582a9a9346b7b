"""The golden files of the other published detectors, over the pictures of the small set."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_set import HERE, SMALL

from mirror_pl.detectors.baseline import Baseline, VitSize

TOLERANCE = 2e-5
"""On the logit, in float32 on a CPU; measured 2e-6."""


@dataclass(frozen=True)
class BaselineSet:
    """What the published code of one detector computes, with small random weights."""

    name: str

    @property
    def folder(self) -> Path:
        return HERE / "baselines" / self.name

    @property
    def size(self) -> VitSize:
        sizes = json.loads((self.folder / "config.json").read_text())
        return VitSize(sizes["hidden_size"], sizes["depth"], sizes["num_heads"], sizes["mlp_hidden"])

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "scores.csv").open() as file:
            return list(csv.DictReader(file))

    def paths(self) -> list[Path]:
        return [SMALL.data_root / row["path"] for row in self.rows()]

    def logits(self) -> torch.Tensor:
        return torch.tensor([float(row["logit"]) for row in self.rows()])

    def intermediates(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "intermediates.npz") as archive:
            found = dict(archive)
        assert [str(path) for path in found["path"]] == [row["path"] for row in self.rows()]
        return found

    def largest_difference(self, logits: torch.Tensor) -> float:
        """Of logits of all pictures to the golden ones; also says whether decisions are the same."""
        golden = self.logits()
        assert torch.equal(logits > 0, golden > 0)
        return float((logits - golden).abs().max())


def logits_of(detector: Baseline, paths: list[Path], **options: Any) -> torch.Tensor:
    predictions = detector.predict(paths, **options)
    assert {prediction.status for prediction in predictions} == {"ok"}
    return torch.tensor([prediction.logit for prediction in predictions])


def saved(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def changed(tensors: dict[str, torch.Tensor], how: str, name: str) -> dict[str, torch.Tensor]:
    """Leave out, add or reshape a tensor."""
    tensors = dict(tensors)
    if how == "missing":
        del tensors[name]
    elif how == "unexpected":
        tensors[f"{name}.extra"] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros((*tensors[name].shape, 2))
    return tensors


def says_cuda(path: Path) -> bool:
    """Whether the storages in a file are said to be on a GPU."""
    return b"cuda:0" in path.read_bytes()
