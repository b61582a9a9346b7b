"""``python -m mirror_pl.predict``: score any pictures, and write a file with a row for each."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import PredictSettings, read_settings


@command("predict", inputs="input")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, PredictSettings)
    # Imported here: torch takes seconds, and --help or a wrong setting is to be answered at once.
    from mirror_pl.jobs.predicting import run

    run(cfg)


if __name__ == "__main__":
    main()
