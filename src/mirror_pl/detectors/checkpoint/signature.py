"""Which backbone a set of weights looks like, read off its names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mirror_pl.detectors.config import BackboneConfig
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES

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
