"""From predictions to numbers: the prediction table, and metrics per subset. Knows no model and no file tree."""

from mirror_pl.scores.metrics import METRICS, BenchmarkScores, Compat, SubsetScores, score_benchmark
from mirror_pl.scores.prediction_table import SCHEMA, SCORED, Status, make_table, read_table, write_table

__all__ = [
    "METRICS",
    "SCHEMA",
    "SCORED",
    "BenchmarkScores",
    "Compat",
    "Status",
    "SubsetScores",
    "make_table",
    "read_table",
    "score_benchmark",
    "write_table",
]
