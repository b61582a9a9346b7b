"""Finds ``configs/``, composes it and builds objects from it. The only room, besides the commands, that knows Hydra."""

from mirror_pl.config.build import build, build_detector, build_manifest, build_trainer, is_embedded
from mirror_pl.config.command import command, compose

__all__ = ["build", "build_detector", "build_manifest", "build_trainer", "command", "compose", "is_embedded"]
