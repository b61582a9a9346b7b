"""``python -m mirror_pl.eval``: run a detector over a benchmark and write the published report."""

from __future__ import annotations

from omegaconf import DictConfig

from mirror_pl.config.command import command, named_settings
from mirror_pl.config.schema import EvalSettings, read_settings


@command("eval")
def main(cfg: DictConfig) -> None:
    """Do as `cfg` says."""
    read_settings(cfg, EvalSettings)
    # Imported here: torch and Lightning take seconds, and --help or a wrong setting is to be answered at once.
    from mirror_pl.jobs.evaluation import run

    run(cfg, named_settings())


if __name__ == "__main__":
    main()
