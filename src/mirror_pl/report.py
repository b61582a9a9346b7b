"""``python -m mirror_pl.report``: gather finished evaluations into the table that one would publish."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import ReportSettings, read_settings


@command("report", inputs="runs")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, ReportSettings)
    from mirror_pl.jobs.reporting import run

    run(cfg)


if __name__ == "__main__":
    main()
