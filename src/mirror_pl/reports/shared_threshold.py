"""One threshold a detector, fitted on a named set of images and applied to all sets that share no image with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mirror_pl.errors import ConfigError, name_list, nearest
from mirror_pl.reports.gathered_runs import GatheredRun
from mirror_pl.scores.columns import columns, distinct_rows, rows_by_subset
from mirror_pl.scores.threshold import FittedThreshold, bal_acc_at, fit_threshold


@dataclass(frozen=True)
class SharedThreshold:
    """A detector's threshold, and the images that it was fitted on, by their whole paths."""

    fitted: FittedThreshold
    images: pa.Array


def fit_on(run: GatheredRun, subset: str | None) -> SharedThreshold:
    """Fit a detector's threshold on a run of it, or on one subset of that.

    Raises:
        ConfigError: If the run has no such subset.
        DataError: If the set lacks scored images of a class.
    """
    table = run.read()
    data = columns(table)
    if subset is None:
        rows = distinct_rows(data)
    elif subset in data.names:
        rows = rows_by_subset(data)[data.names.index(subset)]
    else:
        raise ConfigError(
            f"threshold_from: {run.benchmark} has no subset {subset} in {run.folder}.{nearest(subset, data.names)} "
            f"It has: {name_list(data.names, 30)}"
        )
    # Images without a score take no part in the fit; they belong to the set all the same.
    images = _whole_paths(run, table.take(pa.array(rows)))
    rows = rows[data.scored[rows]]
    return SharedThreshold(fit_threshold(data.label[rows], data.logit[rows]), images)


def apply_to(threshold: SharedThreshold, run: GatheredRun, table: pa.Table) -> dict[str, float | None]:
    """Return each subset's balanced accuracy at a threshold; None where it is undefined, or was fitted on its images."""
    data = columns(table)
    # Fitted and judged on the same image, even one real that serves several subsets, it would flatter the detector.
    known = pc.is_in(_whole_paths(run, table), value_set=threshold.images)
    fitted_on = known.to_numpy(zero_copy_only=False)
    found: dict[str, float | None] = {}
    for name, here in zip(data.names, rows_by_subset(data), strict=True):
        kept = here[data.scored[here]]
        shares = bool(np.any(fitted_on[here]))
        found[name] = None if shares else bal_acc_at(data.label[kept], data.logit[kept], threshold.fitted.logit)
    return found


def _whole_paths(run: GatheredRun, table: pa.Table) -> pa.Array:
    """Return the paths in a table with the data root before them; one of a real that a user named is whole already."""
    paths = table["path"].combine_chunks()
    if isinstance(paths, pa.ChunkedArray):
        paths = paths.chunk(0)
    below = pc.binary_join_element_wise(run.data_root.rstrip("/"), paths, "/")
    return pc.if_else(pc.starts_with(paths, "/"), paths, below)
