"""``python -m mirror_pl.gallery``: a page of the surest, the most mistaken and the least sure images of evaluations."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import GallerySettings, read_settings


@command("gallery", inputs="runs")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, GallerySettings)
    from mirror_pl.jobs.gallery import run

    run(cfg)


if __name__ == "__main__":
    main()
