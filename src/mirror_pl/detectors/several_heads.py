"""Detectors that share a frozen backbone, scored together: the backbone, which nearly all the time goes to, runs once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mirror_pl.detectors.contract import Detector
from mirror_pl.detectors.verdict import Verdict
from mirror_pl.errors import ConfigError


class SeveralHeads(nn.Module):
    """Scores a batch by each of H detectors, such as probes that were trained on the same features.

    The detectors are changed: all have one backbone afterwards, and the memory of the others' is free.

    Args:
        detectors: In eval mode, with equal backbones, recipes and protocols.

    Raises:
        ConfigError: If they differ in one of these.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        super().__init__()
        first = detectors[0]
        for number, other in enumerate(detectors[1:], 2):
            difference = _difference(first, other)
            if difference:
                raise ConfigError(f"heads: {difference} of head {number} is not that of the first; score it by itself")
        if len(detectors) > 1:
            shared = _Once(first.backbone)
            for detector in detectors:
                detector.backbone = shared
        self.detectors = nn.ModuleList(detectors)

    def __len__(self) -> int:
        return len(self.detectors)

    def forward(self, pixels: Tensor) -> Verdict:
        """Return the detector's verdict on pixels; of several ones ``logit`` and ``p_fake`` ``(B, H)``, without evidence."""
        verdicts: list[Verdict] = [detector(pixels) for detector in self.detectors]
        if len(verdicts) == 1:
            return verdicts[0]
        logit = torch.stack([verdict.logit for verdict in verdicts], dim=1)
        return Verdict(logit, torch.stack([verdict.p_fake for verdict in verdicts], dim=1), {})


class _Once(nn.Module):
    """A backbone that answers the same question twice without asking itself again."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._last: tuple[Tensor, Any] | None = None

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        (pixels,) = (*args, *kwargs.values())
        if self._last is None or self._last[0].shape != pixels.shape or not torch.equal(self._last[0], pixels):
            self._last = None  # not both in memory at a time
            self._last = pixels, self.backbone(*args, **kwargs)
        return self._last[1]


def _difference(first: Detector, other: Detector) -> str:
    """Say in what two detectors differ that heads must have in common; empty if in nothing."""
    if first.spec != other.spec:
        return "the recipe"
    if first.protocol != other.protocol:
        return "the protocol"
    mine, others = first.backbone.state_dict(), other.backbone.state_dict()
    same = mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)
    return "" if same and type(first.backbone) is type(other.backbone) else "the backbone"
