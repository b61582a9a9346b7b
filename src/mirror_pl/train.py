"""``python -m mirror_pl.train``: learn a memory bank from real images (Phase 1), then a detector around it (Phase 2)."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command
from mirror_pl.config.schema import read_train_settings


@command("train")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_train_settings(cfg)
    # Imported here: torch and Lightning take seconds, and --help or a wrong setting is to be answered at once.
    if cfg.phase.name == "miniature":
        from mirror_pl.jobs.miniature import run
    else:
        from mirror_pl.jobs.training import run
    run(cfg)


if __name__ == "__main__":
    main()
