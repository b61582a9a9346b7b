"""Small neural networks that compress an image and rebuild it: the generators of the miniature world.

They differ in how they get back to full size, which is where generated images give themselves away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

WIDTH: Final = 32
"""Channels at half size; twice as many at a quarter."""
LATENT: Final = 10
"""Numbers kept for each square of four by four pixels, which are 48."""


def _bilinear(inputs: int, outputs: int) -> nn.Module:
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(up, nn.Conv2d(inputs, outputs, 3, padding=1))


def _nearest(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1))


def _transposed(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


def _shuffle(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2))


class Rebuilder(nn.Module):
    """An encoder that brings an image to a quarter of its sides, and a decoder that rebuilds it.

    Args:
        doubling: Makes the layer from so many channels to so many that doubles the sides.
        variational: Whether the code is drawn around its mean in training, as by a variational autoencoder.
    """

    def __init__(self, doubling: Callable[[int, int], nn.Module], variational: bool) -> None:
        super().__init__()
        self.variational = variational
        self.encoder = nn.Sequential(
            nn.Conv2d(3, WIDTH, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * WIDTH, 2 * LATENT if variational else LATENT, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT, 2 * WIDTH, 3, padding=1),
            nn.GELU(),
            doubling(2 * WIDTH, WIDTH),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GELU(),
            doubling(WIDTH, WIDTH // 2),
            nn.GELU(),
            nn.Conv2d(WIDTH // 2, 3, 3, padding=1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compress and rebuild.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1], sides multiples of 4.

        Returns:
            The rebuilt images ``(B, 3, H, W)``, about in [0, 1]; and what their code costs, a scalar in nats a number of
            the code: its divergence from a normal distribution, 0 where it is not variational.
        """
        code = self.encoder(2 * images - 1)
        cost = code.new_zeros(())
        if self.variational:
            code, log_variance = code.chunk(2, dim=1)
            log_variance = log_variance.clamp(-12, 4)
            cost = 0.5 * (code.square() + log_variance.exp() - log_variance - 1).mean()
            if self.training:
                code = code + torch.randn_like(code) * (log_variance / 2).exp()
        return (self.decoder(code) + 1) / 2, cost


DECODERS: Final[dict[str, Callable[[], Rebuilder]]] = {
    "variational": lambda: Rebuilder(_bilinear, variational=True),
    "nearest": lambda: Rebuilder(_nearest, variational=False),
    "transposed": lambda: Rebuilder(_transposed, variational=False),
    "shuffle": lambda: Rebuilder(_shuffle, variational=False),
}
"""By name, what makes each decoder with fresh weights, drawn from torch's generator."""
