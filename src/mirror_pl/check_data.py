"""``python -m mirror_pl.check_data``: what of the benchmarks is on disk, in which layout, and what is wrong with it."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import CheckDataSettings, read_settings


@command("check_data")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, CheckDataSettings)
    from mirror_pl.jobs.data_check import run

    run(cfg)


if __name__ == "__main__":
    main()
