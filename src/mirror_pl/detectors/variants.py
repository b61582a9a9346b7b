"""MIRROR and what is left of it without some of its parts, by name: the paper's ablation, and the linear probe."""

from __future__ import annotations

from typing import Final

from mirror_pl.detectors.detector_config import DetectorConfig, HeadConfig, HeadInput
from mirror_pl.detectors.known_backbones import backbone_name

VARIANTS: Final[dict[frozenset[HeadInput], str]] = {
    frozenset({"perplexity", "residual", "cls"}): "mirror",
    frozenset({"perplexity", "residual"}): "mirror_no_cls",
    frozenset({"perplexity", "cls"}): "mirror_perplexity",
    frozenset({"residual", "cls"}): "mirror_residual",
    frozenset({"cls"}): "direct",
}
"""By what the head looks at; the names are those of ``detector=``."""
LINEAR_PROBE: Final = "linear_probe"
"""A direct classifier whose head is one layer."""


def variant_name(head: HeadConfig) -> str:
    """Return what a detector with that head is called; "mirror" with what the head looks at, where it has no name."""
    if set(head.inputs) == {"cls"} and head.is_linear:
        return LINEAR_PROBE
    return VARIANTS.get(frozenset(head.inputs), f"mirror_{'_'.join(head.inputs)}_only")


def detector_name(config: DetectorConfig) -> str:
    """Return variant and backbone, as in "mirror/dinov3_l"; the variant alone, where the backbone has no name here."""
    backbone = backbone_name(config.backbone)
    variant = variant_name(config.head)
    return f"{variant}/{backbone}" if backbone else variant
