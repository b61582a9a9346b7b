"""A dataset made on the spot, to see the whole training chain work in minutes: no detector for the real world."""

from mirror_pl.miniature.spec import WorldSpec
from mirror_pl.miniature.world import build_world

__all__ = ["WorldSpec", "build_world"]
