"""What the bank makes of each patch of a picture, as maps on the crops that the detector sees.

A map is evidence, not a verdict: the head sees means over all tokens only, and a token looks at the whole crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from mirror_pl.detectors.detector_config import DetectorConfig
from mirror_pl.detectors.scoring import HasWeights, computing_in, precision_of
from mirror_pl.errors import ConfigError
from mirror_pl.images.crops import Crop
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.retrieval import TokenEvidence

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """Maps of one crop, a value a patch; register tokens are in none of them. Arrays are ``(rows, cols)`` float32.

    Attributes:
        residual_norm: Length of what the bank leaves of a token, ``|F - F^|``, in feature units, 0 or more.
        entropy: Mean over heads of the retrieval entropy, in nats, from 0 (one slot) to log top_k (all kept slots alike).
        max_weight: Mean over heads of the largest retrieval weight, a share in (0, 1].
        crop: Where the crop lies in the picture; its upper left corner is that of the maps.
        patch_px: Side of a patch in the pixels of the crop.
    """

    residual_norm: NDArray[np.float32]
    entropy: NDArray[np.float32]
    max_weight: NDArray[np.float32]
    crop: Crop
    patch_px: int


class Rebuilds(HasWeights, Protocol):
    """What is asked of a detector to be mapped; see `MirrorDetector`."""

    config: DetectorConfig
    training: bool

    def reconstruct(self, pixels: Tensor) -> tuple[Tensor, TokenEvidence]:
        """Rebuild the tokens of a batch."""


def token_maps(
    detector: Rebuilds, prepared: PreparedPicture, *, batch_size: int = 16, precision: str = "32-true"
) -> list[TokenMaps]:
    """Map what the bank makes of each patch of a prepared picture.

    Args:
        detector: In eval mode; its device is where it is computed.
        prepared: From `prepare`.
        batch_size: Crops at a time, at most.
        precision: Of the backbone: one of `scoring.PRECISIONS`.

    Returns:
        One a crop, in the order of ``prepared.plan``; none for a picture that could not be read.

    Raises:
        ConfigError: If the detector has no bank, is in train mode, or a setting is out of range.
    """
    if detector.training:
        raise ConfigError("the detector is in train mode, in which its positions may be random; call detector.eval() first")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    precision_of(precision)
    if prepared.pixels is None:
        return []
    pixels = torch.from_numpy(prepared.pixels).permute(0, 3, 1, 2)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with computing_in(precision, detector) as device:
        for part in pixels.split(batch_size):
            tokens, evidence = detector.reconstruct(part.to(device).float() / 255)
            residual = (tokens.float() - evidence.attended.float()).norm(dim=-1)
            found.append((residual, evidence.entropy.mean(dim=1), evidence.max_weight.mean(dim=1)))
    backbone = detector.config.backbone
    registers = 0 if detector.config.drop_registers else backbone.registers
    residuals, entropies, weights = (
        _on_patches(torch.cat(values), prepared.plan[0].side, backbone.patch_px, registers)
        for values in zip(*found, strict=True)
    )
    return [
        TokenMaps(residual.numpy(), entropy.numpy(), weight.numpy(), crop, backbone.patch_px)
        for residual, entropy, weight, crop in zip(residuals, entropies, weights, prepared.plan, strict=True)
    ]


def _on_patches(values: Tensor, side: int, patch_px: int, registers: int) -> Tensor:
    """Return values ``(B, N)`` of tokens as ``(B, rows, cols)`` float32 of patches, without the registers before them."""
    edge = side // patch_px
    patches = values[:, registers:]
    if edge * patch_px != side or patches.shape[1] != edge * edge:
        raise ConfigError(
            f"maps: the {patches.shape[1]} tokens of a crop are no grid over it: its side is {side} px, that of a patch "
            f"{patch_px} px, and {registers} register tokens come before them"
        )
    return patches.unflatten(1, (edge, edge)).float().cpu()
