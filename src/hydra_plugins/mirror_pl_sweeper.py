"""Hydra's sweeper with two changes. It is here because Hydra takes plugins from packages of this name only.

A detector is loaded once for all benchmarks of a sweep: settings of the data vary fastest. And what became of each job is
kept, wherever a launcher ran it, so that a sweep can say at its end which jobs failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from mirror_pl.config.sweep import data_last, keep_outcomes, without_folder


class MirrorSweeper(BasicSweeper):
    """Every combination of the settings, one job each."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs; returns what the launcher returned of each."""
        returns: list[Sequence[Any]] = super().sweep([without_folder(argument) for argument in data_last(arguments)])
        keep_outcomes(result.return_value for batch in returns for result in batch)
        return returns
