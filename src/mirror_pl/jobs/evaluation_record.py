"""What an evaluation leaves: predictions become the table, the table the report, and all goes into the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirror_pl.benchmarks import published_for
from mirror_pl.calibration import p_fake_of, path_digests, read_calibration
from mirror_pl.config.build_detector import is_miniature
from mirror_pl.errors import ConfigError, IncompleteRunError, name_list
from mirror_pl.images.condition import AS_IT_IS, Condition
from mirror_pl.reports import Delta, RunFolder, deltas
from mirror_pl.scores import COPIED_RELEASE, SCORED, BenchmarkScores, Status, make_table, score_benchmark
from mirror_pl.scores.selective import Abstention, abstention_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from mirror_pl.benchmarks import BenchmarkIndex
    from mirror_pl.calibration import Calibration
    from mirror_pl.callbacks import Predictions
    from mirror_pl.config.schema import EvalSettings
    from mirror_pl.scores import Compat


@dataclass(frozen=True)
class Record:
    """The results of an evaluation.

    Attributes:
        table: The prediction table.
        scores: The report.
        compared: Measured beside published.
        counts: Images by what became of them.
        report: The published CSV.
        abstention: What the third answer comes to, where it is on.
    """

    table: pa.Table
    scores: BenchmarkScores
    compared: list[Delta]
    counts: dict[str, int]
    report: Path
    abstention: Abstention | None = None


def write_record(
    folder: RunFolder,
    settings: EvalSettings,
    index: BenchmarkIndex,
    detector: str,
    predictions: Predictions,
    started: datetime,
    condition: Condition = AS_IT_IS,
    calibration: Calibration | None = None,
) -> Record:
    """Write all files of the run but run.json, and return what they say.

    What was scored under another condition than the images as they are is not held against published numbers.
    """
    manifest = index.manifest
    ids, subset_ids = index.rows()
    table = _table(index, predictions, ids, subset_ids, index.subsets)
    scores = score_benchmark(table, settings.quirks)
    abstention = _abstention(index, predictions, calibration)
    counts = {str(status): int((predictions.statuses == status).sum()) for status in Status}
    folder.write_predictions(table)
    folder.write_bad_images(
        (flaw.id, index.paths[flaw.id], manifest.groups[index.group_ids[flaw.id]], str(flaw.status), flaw.reason)
        for flaw in predictions.flaws
    )
    name = manifest.published_key if settings.compat == "published" else manifest.name
    report = folder.write_report(f"{name}_{started:%Y%m%d_%H%M%S}", scores, manifest.pooled_row)
    published = published_for(manifest.name, detector) if condition == AS_IT_IS else ()
    compared = deltas(published, scores.mean["bal_acc"])
    folder.write_deltas(compared)
    per_class = _per_class(index, predictions, settings.quirks) if settings.per_class else None
    if per_class is not None:
        folder.write_report(f"{report.stem}_per_class", per_class, None)
    folder.write_metrics(
        index,
        scores,
        published=[asdict(delta) for delta in compared],
        per_class=None if per_class is None else [asdict(row) for row in per_class.rows],
        images=counts,
        compat=settings.compat,
        **({} if settings.compat is None else {"compat_release": COPIED_RELEASE}),
        miniature=is_miniature(settings.checkpoint),
        **({} if abstention is None else {"abstention": abstention.to_dict()}),
    )
    return Record(table, scores, compared, counts, report, abstention)


def calibrated(predictions: Predictions, calibration: Calibration | None) -> Predictions:
    """Return predictions with calibrated scores, where there is a calibration."""
    if calibration is None:
        return predictions
    logits = calibration(predictions.logits)
    return replace(predictions, logits=logits, p_fake=p_fake_of(logits), raw_logits=predictions.logits)


def _abstention(index: BenchmarkIndex, predictions: Predictions, calibration: Calibration | None) -> Abstention | None:
    """Count the answers of a detector that may abstain, each image once; None of one that may not."""
    if calibration is None or calibration.abstain is None or predictions.raw_logits is None:
        return None
    kept = np.isin(predictions.statuses, SCORED)
    return abstention_of(index.labels[kept], calibration.verdicts(predictions.raw_logits[kept]), calibration.abstain)


def _table(
    index: BenchmarkIndex,
    predictions: Predictions,
    ids: NDArray[np.int64],
    subset_ids: NDArray[np.int32],
    subsets: Sequence[str],
) -> pa.Table:
    """Return the prediction table of the images `ids`, each in the subset that `subset_ids` says."""
    return make_table(
        ids=ids,
        paths=[index.paths[image] for image in ids],
        benchmark=index.manifest.name,
        subsets=subsets,
        subset_ids=subset_ids,
        labels=index.labels[ids],
        statuses=predictions.statuses[ids],
        logits=predictions.logits[ids],
        p_fake=predictions.p_fake[ids],
        raw_logits=None if predictions.raw_logits is None else predictions.raw_logits[ids],
    )


def _per_class(index: BenchmarkIndex, predictions: Predictions, compat: Compat) -> BenchmarkScores | None:
    """Score each class of the subsets that are nested by class, as in progan/horse; None where none is."""
    ids, subset_ids = index.rows()
    nested = np.array(index.class_names, dtype=object)[index.class_ids[ids]] != ""
    if not nested.any():
        return None
    ids, subset_ids = ids[nested], subset_ids[nested]
    names = [f"{index.subsets[s]}/{index.class_names[index.class_ids[i]]}" for i, s in zip(ids, subset_ids, strict=True)]
    rows = list(dict.fromkeys(names))
    positions = {name: position for position, name in enumerate(rows)}
    row_ids = np.array([positions[name] for name in names], np.int32)
    return score_benchmark(_table(index, predictions, ids, row_ids, rows), compat)


def check_other_images(path: Path, index: BenchmarkIndex) -> None:
    """See that a calibration was fitted on none of a benchmark's images.

    Raises:
        ConfigError: If it was: judged on them, it would flatter the detector.
        CheckpointError: If its file cannot be read.
    """
    origin = read_calibration(path).fitted_on
    origin.check_images(path_digests(index.paths, index.manifest.name, str(index.data_root.resolve())))
    if origin.data == index.fingerprint():
        raise ConfigError(
            f"calibration: it was fitted on {origin.name}, and the images here are the same; report on another set, or "
            "fit on another one"
        )


def raise_if_incomplete(settings: EvalSettings, index: BenchmarkIndex, counts: Mapping[str, int], folder: Path) -> None:
    """Say, once everything is written, how the run falls short of what was asked for.

    Raises:
        IncompleteRunError: If it does.
    """
    shortfalls = []
    undecodable, non_finite = counts[str(Status.UNDECODABLE)], counts[str(Status.NON_FINITE)]
    if undecodable == len(index):
        shortfalls.append(f"none of the {len(index)} images could be decoded")
    elif undecodable > settings.max_bad_fraction * len(index):
        shortfalls.append(
            f"{undecodable} of {len(index)} images are undecodable, more than max_bad_fraction={settings.max_bad_fraction}"
        )
    if non_finite:
        shortfalls.append(
            f"{non_finite} of {len(index)} images got no finite score: the weights are damaged, or the precision overflows "
            "(trainer.precision=bf16-mixed or 32-true does not)"
        )
    if index.unreadable:
        shortfalls.append(f"folders that cannot be listed: {name_list(index.unreadable)}")
    if settings.require_all and index.missing:
        shortfalls.append(f"subsets not on disk: {name_list(index.missing)}; require_all=true asks for all")
    if shortfalls:
        raise IncompleteRunError(f"{'; '.join(shortfalls)}. What could be evaluated is in {folder}")
