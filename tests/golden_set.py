"""The golden files as the tests use them: what the published code computes, per model."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent / "golden"
# The larger set is not in the repository: the folder that holds it is named, or lies beside the checkout.
ELSEWHERE = Path(os.environ.get("MIRROR_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


@dataclass(frozen=True)
class GoldenSet:
    """One model and the pictures it was run on."""

    folder: Path
    model: str
    benchmarks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.folder.name}-{self.model}"

    @property
    def data_root(self) -> Path:
        return self.folder / "data"

    @property
    def checkpoint(self) -> Path:
        return self.folder / self.model / "checkpoint-h-cur.pth"

    @property
    def memory_path(self) -> Path:
        return self.folder / self.model / "mirror_phase1.pth"

    @property
    def backbone_path(self) -> Path:
        return next((self.folder / self.model).glob("dino*"))

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / self.model / "scores.csv").open() as file:
            return list(csv.DictReader(file))

    def column(self, name: str) -> torch.Tensor:
        return torch.tensor([float(row[name]) for row in self.rows()])

    def crops(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "crops.npz") as archive:
            return dict(archive)

    def pixels(self) -> torch.Tensor:
        """The crops as the detector takes them, in the order of `rows`."""
        crops = self.crops()
        return torch.from_numpy(np.stack([crops[row["path"]] for row in self.rows()])).permute(0, 3, 1, 2)

    def report(self, published_key: str) -> list[dict[str, str]]:
        with (self.folder / self.model / "csv" / f"{published_key}.csv").open() as file:
            return list(csv.DictReader(file))


SMALL = GoldenSet(HERE / "small", "v3_gated", ("chameleon", "wildrf"))
FULL = (
    [GoldenSet(ELSEWHERE / "full", model, ("chameleon", "wildrf", "synthwildx")) for model in ("v3_gated", "v3_plain", "v2")]
    if (ELSEWHERE / "full").is_dir()
    else []
)
ALL = [SMALL, *FULL]
