"""``python -m mirror_pl.app``: a page in the browser that scores the pictures dropped onto it."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import AppSettings, read_settings


@command("app")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, AppSettings)
    # Imported here: torch takes seconds, and --help or a wrong setting is to be answered at once.
    from mirror_pl.jobs.app import run

    run(cfg)


if __name__ == "__main__":
    main()
