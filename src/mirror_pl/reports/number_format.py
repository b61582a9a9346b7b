"""How figures are written where people read them: percent, an undefined one as "-". Files for programs have fractions."""

from __future__ import annotations

from mirror_pl.scores.bootstrap import Estimate

NAMES = {
    "acc": "Acc",
    "real_acc": "Real_Acc",
    "fake_acc": "Fake_Acc",
    "bal_acc": "Bal_Acc",
    "auc": "AUC",
    "ap": "AP",
    "tpr_at_0.1_fpr": "TPR@0.1%",
    "tpr_at_1_fpr": "TPR@1%",
    "tpr_at_5_fpr": "TPR@5%",
    "eer": "EER",
    "ece": "ECE",
    "ece_mass": "ECE (mass)",
    "brier": "Brier",
    "nll": "NLL",
}
"""Titles of the metrics; the first six as published."""


def figure(value: float | None, name: str) -> str:
    """Write a metric by its name: in percent to two digits, and ``nll`` in nats to three."""
    return "-" if value is None else f"{value:.3f}" if name == "nll" else percent(value, 2)


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction in percent."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    return "-" if value is None else f"{100 * value:+.{digits}f}"


def bracket(estimate: Estimate, digits: int = 1) -> str:
    """Write an interval as "[94.2, 97.0]", and nothing where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{percent(estimate.low, digits)}, {percent(estimate.high, digits)}]"


def with_interval(estimate: Estimate, digits: int = 1) -> str:
    """Write a figure with its interval."""
    return f"{percent(estimate.value, digits)} {bracket(estimate, digits)}".rstrip()


def p_value(value: float | None) -> str:
    """Write a p-value to two digits; "<0.0001" below what is worth telling apart."""
    if value is None:
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def level_name(level: float) -> str:
    """Write the level of intervals, as in "95 %"."""
    return f"{100 * level:g} %"
