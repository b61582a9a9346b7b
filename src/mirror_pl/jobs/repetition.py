"""Doing a run again: the settings that its run.json records, and whether the numbers come out the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mirror_pl.benchmarks import parse_manifest, without_settings
from mirror_pl.config.schema import EvalSettings, TrainerSettings, check_settings, literal
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.files import read_json
from mirror_pl.reports import print_plain
from mirror_pl.scores import read_table

if TYPE_CHECKING:
    import pyarrow as pa

    from mirror_pl.benchmarks import BenchmarkIndex
    from mirror_pl.jobs.dependencies import WeightsFile

TOLERANCE: Final = 1e-4
"""Largest difference of a p_fake between two runs that agree: what float32 rounding on other machines comes to."""


@dataclass(frozen=True)
class Agreement:
    """Two runs of the same detector on the same images, compared.

    Attributes:
        images: Images that both have.
        missing: Images that only one has.
        identical: Images whose scores are the same to the bit.
        largest: Largest difference of a p_fake.
        decisions: Images that are decided otherwise.
        statuses: Images of which other things became, such as undecodable.
    """

    images: int
    missing: int
    identical: int
    largest: float
    decisions: int
    statuses: int

    @property
    def agrees(self) -> bool:
        """Whether every image is in both, was read and decided alike, and no p_fake differs by more than `TOLERANCE`."""
        return not (self.missing or self.decisions or self.statuses) and self.largest <= TOLERANCE

    def __str__(self) -> str:
        if self.agrees and self.identical == self.images:
            return f"agrees; all {self.images:,} scores are the same to the bit"
        verdict = "agrees" if self.agrees else "does not agree"
        return (
            f"{verdict}; of {self.images:,} scores {self.identical:,} are the same to the bit, p_fake differs by "
            f"{self.largest:.2g} at most (allowed {TOLERANCE:.0e}), {self.decisions} decisions and {self.statuses} statuses "
            f"differ, {self.missing} images are in one run only"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for ``run.json``."""
        return {**asdict(self), "agrees": self.agrees}


@dataclass(frozen=True)
class Original:
    """The run that is to be done again.

    Attributes:
        path: Its folder.
        run: What its run.json says.
    """

    path: Path
    run: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Original:
        """Read a run.

        Raises:
            ConfigError: If the folder holds no complete run, or one without settings.
        """
        try:
            run = read_json(path / "run.json")
        except FileNotFoundError as error:
            raise ConfigError(f"repeat: {path} holds no complete run: there is no run.json in it") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"repeat: {path / 'run.json'} cannot be read: {error}") from error
        if not isinstance(run, dict) or not isinstance(run.get("config"), dict) or "benchmark" not in run["config"]:
            raise ConfigError(f"repeat: {path / 'run.json'} has no settings of an evaluation; it is from an older version")
        if not (path / "predictions.parquet").exists():
            raise ConfigError(f"repeat: there is no predictions.parquet in {path} to compare with")
        return cls(path, run)

    def settings(self, cfg: DictConfig, named: Collection[str]) -> DictConfig:
        """Return the settings of the original, but for those that this command line names, and where results go.

        Of what the run records, only the values of known settings are taken, each by its type, and every text as it is:
        what is built, and with which callbacks and loggers, `cfg` says, and
        whose code may run. Of a run of several heads its own detector is
        repeated, without the others.

        Args:
            cfg: Of this command.
            named: Settings and groups that the command line names.

        Raises:
            ConfigError: If a recorded value is none of its setting.
        """
        recorded, own = self.run["config"], {*named, "output_dir", "repeat", "resume", "heads", "trust"}
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        taken = {name for name in EvalSettings.model_fields if name in recorded and name not in own}
        again = cfg.copy()
        OmegaConf.set_struct(again, False)
        try:
            values = {name: (recorded if name in taken else plain)[name] for name in EvalSettings.model_fields}
            for name, value in check_settings(values, EvalSettings).model_dump(include=taken, by_alias=True).items():
                again[name] = literal(value)
            if "trainer" not in own:
                known = {name: recorded["trainer"][name] for name in TrainerSettings.model_fields}
                again.trainer = {**plain["trainer"], **check_settings(known, TrainerSettings).model_dump()}
            if "benchmark" not in own:
                parse_manifest(without_settings(recorded["benchmark"]))
                again.benchmark = literal(recorded["benchmark"])
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"repeat: the settings in {self.path / 'run.json'} are damaged: {error}") from error
        if "output_dir" not in named:
            folder = Path(plain["output_dir"])
            again.output_dir = literal(f"{folder.parents[1]}/{recorded['benchmark']['name']}/{folder.name}")
        again.trainer.default_root_dir = again.output_dir
        return again

    def check(self, weights: Mapping[str, WeightsFile], index: BenchmarkIndex) -> None:
        """See that weights and data are those of the original.

        Raises:
            ConfigError: If weights are others.
            DataError: If the data is.
        """
        for key, file in weights.items():
            before = (self.run.get(key) or {}).get("sha256")
            if before != file.sha256:
                raise ConfigError(
                    f"repeat: {key} is not that of {self.path}: sha256 {before} then, {file.sha256} now, in {file.path}. "
                    "Give the same file, or evaluate without repeat"
                )
        if index.fingerprint() != self.run["data"]["fingerprint"]:
            raise DataError(
                f"repeat: the data in {index.data_root} is not that of {self.path}: {self.run['images']['indexed']} images "
                f"then, {len(index)} now, or others. Give data_root=FOLDER of the same data, or evaluate without repeat"
            )

    def compare(self, table: pa.Table) -> Agreement:
        """Hold the scores of a repetition against those of the original."""
        columns = ["id", "status", "logit", "p_fake"]
        first, second = (_by_image(t.select(columns)) for t in (read_table(self.path / "predictions.parquet"), table))
        common, here, there = np.intersect1d(first["id"], second["id"], assume_unique=True, return_indices=True)
        one = {name: column[here] for name, column in first.items()}
        two = {name: column[there] for name, column in second.items()}
        scored = np.isfinite(one["p_fake"]) & np.isfinite(two["p_fake"])
        difference = np.abs(one["p_fake"][scored].astype(float) - two["p_fake"][scored])
        return Agreement(
            images=len(common),
            missing=len(first["id"]) + len(second["id"]) - 2 * len(common),
            identical=int((np.isnan(one["logit"]) & np.isnan(two["logit"]) | (one["logit"] == two["logit"])).sum()),
            largest=float(difference.max(initial=0.0)),
            decisions=int(((one["logit"] > 0) != (two["logit"] > 0))[scored].sum()),
            statuses=int((one["status"] != two["status"]).sum()),
        )

    def say(self, agreement: Agreement, versions: Mapping[str, str], device: str, console: Console) -> None:
        """Print whether the numbers agree, and what was different when the original was made."""
        print_plain(f"Repetition of {self.path}: {agreement}", console)
        for note in self._other_circumstances(versions, device):
            print_plain(f"  {note}", console)

    def _other_circumstances(self, versions: Mapping[str, str], device: str) -> Iterator[str]:
        for name, version in versions.items():
            before = self.run["versions"].get(name, "not installed")
            if before != version:
                yield f"{name} {before} then, {version} now"
        if self.run["device"] != device:
            yield f"device {self.run['device']} then, {device} now"


def _by_image(table: pa.Table) -> dict[str, np.ndarray]:
    """Return the columns with each image once; images without a score have NaN."""
    ids, first = np.unique(table["id"].to_numpy(), return_index=True)
    status = table["status"].combine_chunks().cast("string").to_numpy(zero_copy_only=False)[first]
    return {"id": ids, "status": status, **{name: table[name].to_numpy()[first] for name in ("logit", "p_fake")}}
