"""The backbones known by name, and the question which of them a set of weights looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mirror_pl.detectors.config import BackboneConfig
from mirror_pl.errors import ConfigError, nearest

KNOWN_BACKBONES: Final[dict[str, BackboneConfig]] = {
    # For trying things out.
    "tiny": BackboneConfig("dinov3", width=32, depth=2, heads=4, mlp_width=64, gated_mlp=True, registers=4),
    # The one that the miniature is trained with, on crops of 64 px.
    "miniature": BackboneConfig(
        "dinov3", width=96, depth=4, heads=6, mlp_width=192, gated_mlp=True, patch_px=8, registers=4
    ),
    # DINOv2 ViT-L/14: 518 px position table, interpolated to 224 px; no registers.
    "dinov2_l": BackboneConfig("dinov2", width=1024, depth=24, heads=16, mlp_width=4096, patch_px=14, native_px=518),
    "dinov3_b": BackboneConfig("dinov3", width=768, depth=12, heads=12, mlp_width=3072, registers=4),
    "dinov3_l": BackboneConfig("dinov3", width=1024, depth=24, heads=16, mlp_width=4096, registers=4),
    # DINOv3 ViT-H+/16, the only one with published MIRROR weights.
    "dinov3_hplus": BackboneConfig("dinov3", width=1280, depth=32, heads=20, mlp_width=5120, gated_mlp=True, registers=4),
}


def known_backbone(name: str) -> BackboneConfig:
    """Return the architecture called `name`.

    Raises:
        ConfigError: If there is none; the message lists the names and the nearest one.
    """
    if name not in KNOWN_BACKBONES:
        raise ConfigError(f"unknown backbone {name!r}.{nearest(name, KNOWN_BACKBONES)} Known: {', '.join(KNOWN_BACKBONES)}")
    return KNOWN_BACKBONES[name]


def backbone_name(config: BackboneConfig) -> str | None:
    """Return the name of an architecture, or None for one that has no name here."""
    config = replace(config, rope_rescale=None)  # of training only
    return next((name for name, known in KNOWN_BACKBONES.items() if known == config), None)
