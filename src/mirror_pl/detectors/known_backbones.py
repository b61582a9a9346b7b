"""Backbones by name, and by what a file's tensors look like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from mirror_pl.detectors.detector_config import BackboneConfig
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


_LAYER = re.compile(r"^backbone\.layers\.(\d{1,9})\.")


@dataclass(frozen=True)
class Signature:
    """What shapes tell of an architecture; the number of attention heads leaves no trace in them."""

    family: str
    width: int
    depth: int
    mlp_width: int
    gated_mlp: bool
    patch_px: int
    registers: int

    @classmethod
    def of_config(cls, config: BackboneConfig) -> Signature:
        """Return the signature of an architecture."""
        return cls(
            family=config.family,
            width=config.width,
            depth=config.depth,
            mlp_width=config.mlp_width,
            gated_mlp=config.gated_mlp,
            patch_px=config.patch_px,
            registers=config.registers,
        )

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Signature | None:
        """Return the signature of weights under our names, or None where too little of a backbone is among them."""
        patches = tensors.get("backbone.embeddings.patches.weight")
        up = tensors.get("backbone.layers.0.mlp.up.weight")
        if patches is None or up is None or patches.ndim != 4 or up.ndim == 0:
            return None
        layers = {int(match[1]) for match in map(_LAYER.match, tensors) if match}
        registers = tensors.get("backbone.embeddings.register_tokens")
        return cls(
            family="dinov2" if "backbone.embeddings.position_embeddings" in tensors else "dinov3",
            width=patches.shape[0],
            depth=max(layers) + 1,
            mlp_width=up.shape[0],
            gated_mlp="backbone.layers.0.mlp.gate.weight" in tensors,
            patch_px=patches.shape[-1],
            registers=0 if registers is None or registers.ndim < 2 else registers.shape[1],
        )

    def known_as(self) -> str | None:
        """Return the name of the known backbone with this signature, or None."""
        return next((name for name, known in KNOWN_BACKBONES.items() if Signature.of_config(known) == self), None)

    def __str__(self) -> str:
        gated = " gated" if self.gated_mlp else ""
        text = (
            f"{self.family}, width {self.width}, {self.depth} layers, MLP {self.mlp_width}{gated}, patch {self.patch_px}, "
            f"{self.registers} registers"
        )
        name = self.known_as()
        return f"{name} ({text})" if name else f"no backbone known by name ({text})"
