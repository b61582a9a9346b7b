"""The calibration job: the scores of a finished evaluation in, a file that eval, predict and load_detector take out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console

from mirror_pl.calibration import Calibration, FittedOn, as_text, p_fake_of, path_digests
from mirror_pl.config.schema import CalibrateSettings, read_settings
from mirror_pl.errors import ConfigError, DataError, OutputError, name_list, nearest
from mirror_pl.files import claim
from mirror_pl.labels import FAKE
from mirror_pl.reports import print_plain
from mirror_pl.reports.gathered_runs import GatheredRun, runs_named, sort_runs
from mirror_pl.reports.number_format import NAMES, figure
from mirror_pl.scores.columns import columns, distinct_rows
from mirror_pl.scores.conformal import fit_quantiles
from mirror_pl.scores.extended import extended_metrics
from mirror_pl.scores.fit_calibration import FOLDS, fit_parameters, folds
from mirror_pl.scores.table import raw_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = ("bal_acc", "eer", "ece", "ece_mass", "brier", "nll")


def run(cfg: DictConfig) -> None:
    """Fit as `cfg` says, write the file, and say what it does.

    Raises:
        MirrorError: If settings or run are not usable, the set lacks a class, the method has no optimum there, or the file
            exists. Nothing is written then.
    """
    settings = read_settings(cfg, CalibrateSettings)
    output, console = Path(settings.output), Console()
    if output.exists():
        raise ConfigError(f"output: {output} exists already; give another one, or move it away")
    roots = [Path(path) for path in settings.runs]
    complete = runs_named(roots, sort_runs(roots)[0])
    if len(complete) != 1:
        found = name_list(str(run.folder) for run in complete)
        raise ConfigError(f"runs: a calibration is fitted on one run, and there are {len(complete)}: {found}; give one")
    found_run, table = complete[0], complete[0].read()
    rows = _rows(table, settings.subsets)
    data = columns(table)
    kept = rows[data.scored[rows]]
    label, logit = data.label[kept], raw_logits(table)[kept]
    calibration = Calibration(
        settings.method,
        fit_quantiles(label, logit),
        _fitted_on(found_run, table, rows, label),
        balanced=settings.balanced,
        **fit_parameters(label, logit, settings.method, balanced=settings.balanced),
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        claim(output, as_text(calibration))
    except FileExistsError as error:
        raise ConfigError(f"output: {output} exists already; give another one, or move it away") from error
    except OSError as error:
        raise OutputError(f"output: {output} cannot be written: {error.strerror}; give another place") from error
    _say(calibration, label, logit, console)
    print_plain(f"Calibration: {output}", console)


def _rows(table: pa.Table, subsets: Sequence[str] | None) -> NDArray[np.int64]:
    """Return one row of each image of some subsets; of all, where none is named."""
    data = columns(table)
    if subsets is None:
        return distinct_rows(data)
    for name in subsets:
        if name not in data.names:
            raise ConfigError(
                f"subsets: the run has no subset {name}.{nearest(name, data.names)} It has: {name_list(data.names, 30)}"
            )
    here = np.flatnonzero(np.isin(data.subset, [data.names.index(name) for name in subsets]))
    _, first = np.unique(data.id[here], return_index=True)
    return here[np.sort(first)]


def _fitted_on(run: GatheredRun, table: pa.Table, rows: NDArray[np.int64], label: NDArray[np.int8]) -> FittedOn:
    """Say what is fitted on; images without a score take no part in the fit, and belong to the set all the same."""
    assert run.facts is not None
    here = table.take(pa.array(rows))
    protocol = {key: value for key, value in (run.facts.get("protocol") or {}).items() if key != "as_published"}
    fakes = int(np.count_nonzero(label == FAKE))
    condition = run.facts.get("condition")
    under = f" under {condition['perturb']}, format_align={condition['format_align']}" if condition else ""
    return FittedOn(
        benchmark=run.benchmark + under,
        subsets=tuple(dict.fromkeys(here["subset"].to_pylist())),
        reals=len(label) - fakes,
        fakes=fakes,
        detector=str(run.facts["detector"].get("name", "")),
        checkpoint=run.facts["checkpoint"]["sha256"],
        protocol=protocol,
        data=str(run.facts["data"].get("fingerprint", "")),
        images=np.unique(path_digests(here["path"].to_pylist(), run.settings["benchmark"]["name"], run.data_root)),
    )


def _say(calibration: Calibration, label: NDArray[np.int8], logit: NDArray[np.float32], console: Console) -> None:
    origin = calibration.fitted_on
    print_plain(f"{calibration.method} of {origin.detector} on {origin.name}: {_parameters(calibration)}", console)
    print_plain(f"{origin.reals:,} reals and {origin.fakes:,} fakes", console)
    after, how = _judged(calibration, label, logit)
    lines = {"before": logit, f"after, {how}": after}
    width = max(map(len, lines))
    print_plain("  ".join([" " * width, *(f"{NAMES[name]:>10}" for name in SHOWN)]), console)
    for name, values in lines.items():
        found = extended_metrics(label, values, p_fake_of(values))
        cells = (f"{figure(found[metric], metric):>10}" for metric in SHOWN)
        print_plain("  ".join([name.ljust(width), *cells]), console)
    print_plain("In percent, NLL in nats; each image counts once.", console)
    if calibration.balanced and origin.reals != origin.fakes and calibration.method != "none":
        share = origin.fakes / len(label)
        print_plain(
            f"Reals and fakes weighed equally in the fit, so p_fake is for a prior of one half; {share:.1%} of these images "
            "are fakes, and figures that count each image once are for that share.",
            console,
        )


def _parameters(calibration: Calibration) -> str:
    if calibration.method == "isotonic":
        return f"{len(calibration.logits)} steps"
    if calibration.method == "temperature":
        return f"{1 / calibration.slope:.4g}"
    return f"logit x {calibration.slope:.4g} {calibration.offset:+.4g}"


def _judged(
    calibration: Calibration, label: NDArray[np.int8], logit: NDArray[np.float32]
) -> tuple[NDArray[np.float32], str]:
    """Return the calibrated logits, each by a fit on other images where that can be, and words for how."""
    found = np.empty_like(logit)
    try:
        fold = folds(label)
        for held_out in range(FOLDS):
            known = fold != held_out
            fitted = fit_parameters(label[known], logit[known], calibration.method, balanced=calibration.balanced)
            found[~known] = replace(calibration, **fitted)(logit[~known])
    except DataError:  # too few images, or a fold without an optimum
        return calibration(logit), "on the set fitted on, which flatters"
    return found, f"by {FOLDS}-fold cross-validation"
