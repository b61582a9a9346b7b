"""From scores to what people read: the published CSV, the console table, JSON, and the run folder that holds them."""

from mirror_pl.reports.console import print_plain, print_report
from mirror_pl.reports.published_csv import Delta, deltas, published_csv
from mirror_pl.reports.run_folder import RunFolder

__all__ = ["Delta", "RunFolder", "deltas", "print_plain", "print_report", "published_csv"]
