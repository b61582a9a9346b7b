"""From predictions to numbers: the prediction table, metrics, and how sure they are. Knows no model and no file tree."""

from mirror_pl.scores.bootstrap import RESAMPLED, Replicates, bootstrap, interval
from mirror_pl.scores.curves import (
    Curve,
    equal_error_rate,
    precision_recall_curve,
    roc_curve,
    smallest_fpr,
    thin,
    tpr_at_fpr,
)
from mirror_pl.scores.extended import EXTENDED, ExtendedScores, extended_metrics, extended_scores
from mirror_pl.scores.metrics import COPIED_RELEASE, METRICS, BenchmarkScores, Compat, SubsetScores, score_benchmark
from mirror_pl.scores.paired import PairedComparison, compare, compare_many
from mirror_pl.scores.reliability import (
    Reliability,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from mirror_pl.scores.table import SCHEMA, SCORED, Status, make_table, read_table, write_table
from mirror_pl.scores.threshold import FittedThreshold, bal_acc_at, fit_threshold

__all__ = [
    "COPIED_RELEASE",
    "EXTENDED",
    "METRICS",
    "RESAMPLED",
    "SCHEMA",
    "SCORED",
    "BenchmarkScores",
    "Compat",
    "Curve",
    "ExtendedScores",
    "FittedThreshold",
    "PairedComparison",
    "Reliability",
    "Replicates",
    "Status",
    "SubsetScores",
    "bal_acc_at",
    "bootstrap",
    "brier_score",
    "compare",
    "compare_many",
    "equal_error_rate",
    "expected_calibration_error",
    "extended_metrics",
    "extended_scores",
    "fit_threshold",
    "interval",
    "make_table",
    "negative_log_likelihood",
    "precision_recall_curve",
    "read_table",
    "reliability",
    "roc_curve",
    "score_benchmark",
    "smallest_fpr",
    "thin",
    "tpr_at_fpr",
    "write_table",
]
