"""The small ResNet that SAFE and NPR look through: a stem of 3 x 3, then three and four bottlenecks, and their mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import torch
from torch import Tensor, nn

from mirror_pl.detectors.baseline import Baseline, assembled
from mirror_pl.detectors.checkpoint.read import published_tensors
from mirror_pl.errors import CheckpointError, ConfigError, shown
from mirror_pl.images.spec import PreprocessSpec

if TYPE_CHECKING:
    from typing_extensions import Self

WIDTHS: Final = (64, 64, 128)
"""As published: features of the stem, and of the bottlenecks of each stage inside; outside they have four times as many."""
EXPANSION: Final = 4
BLOCKS: Final = (3, 4)


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut, as of ResNet-50; a stride is that of the second."""

    def __init__(self, before: int, inside: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        after = inside * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(before, inside, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = nn.Conv2d(inside, inside, 3, stride, padding=1, bias=False), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = nn.Conv2d(inside, after, 1, bias=False), nn.BatchNorm2d(after)
        projected = (nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.downsample = nn.Sequential(*projected) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 4 * inside, H / stride, W / stride)``."""
        found = self.bn1(self.conv1(x)).relu()
        found = self.bn2(self.conv2(found)).relu()
        return (self.bn3(self.conv3(found)) + self.downsample(x)).relu()


class Trunk(nn.Module):
    """Pixels ``(B, 3, H, W)`` to features ``(B, 4 * the last width)``."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = widths[0]
        self.conv1, self.bn1 = nn.Conv2d(3, before, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(before)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        for number, (inside, blocks) in enumerate(zip(widths[1:], BLOCKS, strict=True)):
            strides = [1 + number, *[1] * (blocks - 1)]
            sizes = [before, *[inside * EXPANSION] * (blocks - 1)]
            parts = enumerate(zip(sizes, strides, strict=True))
            stages.append(nn.Sequential(*(Bottleneck(size, inside, stride, block == 0) for block, (size, stride) in parts)))
            before = inside * EXPANSION
        self.layer1, self.layer2 = stages

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the mean over all places."""
        found = self.pool(self.bn1(self.conv1(pixels)).relu())
        return self.layer2(self.layer1(found)).mean(dim=(2, 3))


class ResnetDetector(Baseline):
    """A linear layer over the trunk's features of what `filtered` leaves of an image.

    Args:
        widths: See `WIDTHS`.
    """

    recipe: ClassVar[PreprocessSpec]
    outputs: ClassVar[int]
    """Of the linear layer: 1, or 2 of real and fake."""
    adapted = ""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        if len(widths) != len(WIDTHS) or not all(type(width) is int and 1 <= width <= 2**12 for width in widths):
            raise ConfigError(f"widths must be three numbers of features, got {shown(widths)}")
        head = nn.Linear(widths[-1] * EXPANSION, self.outputs)
        super().__init__(self.recipe, Trunk(tuple(widths)), head, widths=list(widths))

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; the trunk stays in eval mode, or its batch norms would change what is frozen."""
        super().train(mode)
        self.backbone.eval()
        return self

    def feature(self, pixels: Tensor) -> Tensor:
        """Return the trunk's features ``(B, D)``."""
        found: Tensor = self.backbone(pixels)
        return found

    @classmethod
    def load(cls, checkpoint: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Load the published file, in any envelope.

        Args:
            checkpoint: The file; what it holds of the training is passed over.
            device: Where its tensors are put, whichever device it was saved from.
            dtype: Of the trunk's weights; the linear layer is float32 always.

        Raises:
            CheckpointError: If the file is missing, damaged or unsafe, or any tensor is missing, unexpected or misshapen.
        """
        path = Path(checkpoint)
        tensors = {
            f"head.{name[4:]}" if name.startswith("fc1.") else f"backbone.{name}": tensor
            for name, tensor in published_tensors(path).items()
        }
        widths = tuple(
            _features(tensors, f"backbone.{name}.weight") for name in ("conv1", "layer1.0.conv1", "layer2.0.conv1")
        )
        if not all(widths):
            raise CheckpointError(f"checkpoint: {path} holds no {cls.title}: no such ResNet among its tensors")
        what = f"{cls.title} (ResNet of {', '.join(map(str, widths))} features)"
        return assembled(lambda: cls(widths), tensors, path, what, device, dtype)


def _features(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 0
