"""``python -m mirror_pl.convert``: read any checkpoint and write config.json and model.safetensors."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import ConvertSettings, read_settings


@command("convert")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, ConvertSettings)
    # Imported here: torch and Lightning take seconds, and --help or a wrong setting is to be answered at once.
    from mirror_pl.jobs.conversion import run

    run(cfg)


if __name__ == "__main__":
    main()
