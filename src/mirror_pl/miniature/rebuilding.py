"""How a decoder learns to rebuild crops, and rebuilds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirror_pl.miniature.decoders import Rebuilder
from mirror_pl.miniature.spec import WorldSpec

_LEARNING_RATE = 4e-3
_DETAIL = 1.0
"""Weight of the differences between neighbouring pixels beside that of the pixels: without it, fakes are merely blurred."""
_CODE_COST = 1e-4
"""Weight of the cost of a variational code."""
_REBUILT_AT_ONCE = 64


def train_rebuilder(
    rebuilder: Rebuilder, crops: NDArray[np.uint8], spec: WorldSpec, after_step: Callable[[int], None]
) -> None:
    """Train to rebuild random patches of `crops`, in place.

    Args:
        rebuilder: Chance in its training, and which patches it sees, come from torch's generator.
        crops: ``(N, crop, crop, 3)`` uint8.
        spec: How long, and on what patches.
        after_step: Called with the number of steps done.
    """
    rebuilder.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(rebuilder.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=spec.steps + 1, pct_start=0.1)
    for step in range(1, spec.steps + 1):
        images = _as_images(_patches(crops, spec))
        rebuilt, cost = rebuilder(images)
        error = (rebuilt - images).abs().mean() + _DETAIL * _detail_error(rebuilt, images)
        optimiser.zero_grad()
        (error + _CODE_COST * cost).backward()
        optimiser.step()
        schedule.step()
        after_step(step)
    rebuilder.eval()


@torch.no_grad()
def rebuild(rebuilder: Rebuilder, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rebuild crops, so that nothing but how they were made tells them from the originals.

    Each channel has its original's mean and standard deviation, and the image is grey where that is grey.

    Args:
        rebuilder: In eval mode.
        crops: ``(N, crop, crop, 3)`` uint8.

    Returns:
        ``(N, crop, crop, 3)`` uint8.
    """
    rebuilt = [
        _rebuild(rebuilder, _as_images(crops[at : at + _REBUILT_AT_ONCE])) for at in range(0, len(crops), _REBUILT_AT_ONCE)
    ]
    return np.concatenate([np.round(255 * part.permute(0, 2, 3, 1).numpy()).astype(np.uint8) for part in rebuilt])


def _rebuild(rebuilder: Rebuilder, images: Tensor) -> Tensor:
    made = rebuilder(images)[0]
    grey = (images.amax(dim=1) == images.amin(dim=1)).all(dim=(1, 2))
    made = torch.where(grey.view(-1, 1, 1, 1), made.mean(dim=1, keepdim=True), made)
    (spread, mean), (made_spread, made_mean) = (torch.std_mean(x, dim=(2, 3), keepdim=True) for x in (images, made))
    made = mean + (made - made_mean) * spread / made_spread.clamp_min(1e-3)
    return made.clamp(0, 1)


def _patches(crops: NDArray[np.uint8], spec: WorldSpec) -> NDArray[np.uint8]:
    which = torch.randint(len(crops), (spec.batch_size,)).tolist()
    places = torch.randint(crops.shape[1] - spec.patch_px + 1, (spec.batch_size, 2)).tolist()
    edge = spec.patch_px
    return np.stack([crops[i, y : y + edge, x : x + edge] for i, (y, x) in zip(which, places, strict=True)])


def _as_images(crops: NDArray[np.uint8]) -> Tensor:
    """Return ``(N, 3, H, W)`` in [0, 1], its channels last in memory, which is faster."""
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 255


def _detail_error(rebuilt: Tensor, images: Tensor) -> Tensor:
    difference = rebuilt - images
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
