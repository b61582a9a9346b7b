"""The dual-branch head: perplexity, residual and CLS become two class logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mirror_pl.detectors.detector_config import HeadConfig
from mirror_pl.detectors.exact import exact_float32


class DualBranchHead(nn.Module):
    """Two branches and a classifier (paper Eq. 5; the CLS input as in the published code).

    ``config.inputs`` says which of the three there are. Computed in the dtype of its weights, outside autocast: it is tiny,
    and the evidence is float32.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        joined = 0
        if "perplexity" in config.inputs:
            self.perplexity_branch = nn.Sequential(
                nn.Linear(2, config.perplexity_width), nn.ReLU(), nn.Dropout(config.dropout)
            )
            joined += config.perplexity_width
        if "residual" in config.inputs:
            self.residual_branch = nn.Sequential(
                nn.Linear(width, config.residual_hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.residual_hidden, config.residual_width),
            )
            joined += config.residual_width
        if "cls" in config.inputs:
            joined += width
        self.classifier = (
            nn.Linear(joined, 2)
            if config.is_linear
            else nn.Sequential(
                nn.Linear(joined, config.hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, 2),
            )
        )

    def forward(self, perplexity: Tensor | None, mean_residual: Tensor | None, cls: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            perplexity: ``(B, 2)``, mean largest weight and mean entropy; None only where it is no input, as the next.
            mean_residual: ``(B, D)``.
            cls: ``(B, D)``.

        Returns:
            ``(B, 2)`` logits of real and fake.
        """
        with exact_float32(cls.device):
            dtype = next(self.parameters()).dtype
            features = []
            if "perplexity" in self.config.inputs:
                assert perplexity is not None
                features.append(self.perplexity_branch(perplexity.to(dtype)))
            if "residual" in self.config.inputs:
                assert mean_residual is not None
                features.append(self.residual_branch(mean_residual.to(dtype)))
            if "cls" in self.config.inputs:
                features.append(cls.to(dtype))
            logits: Tensor = self.classifier(torch.cat(features, dim=-1))
            return logits
