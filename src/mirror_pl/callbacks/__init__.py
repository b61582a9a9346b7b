"""Callbacks and loggers of Lightning's: scores kept durably, progress in a log, dashboards that may fail."""

from mirror_pl.callbacks.advice import TrainingAdvice
from mirror_pl.callbacks.progress import ProgressLog
from mirror_pl.callbacks.resume_point import ResumePoint, WholeFiles
from mirror_pl.callbacks.scores import PartsOfRun, Predictions, ScoreKeeper

__all__ = ["PartsOfRun", "Predictions", "ProgressLog", "ResumePoint", "ScoreKeeper", "TrainingAdvice", "WholeFiles"]
