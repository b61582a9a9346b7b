"""The dual-branch head: perplexity, residual and CLS become two class logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mirror_pl.detectors.config import HeadConfig
from mirror_pl.detectors.exact import exact_float32


class DualBranchHead(nn.Module):
    """Two branches and a classifier (paper Eq. 5; the CLS input as in the published code).

    Computed in the dtype of its weights, outside autocast: it is tiny, and the evidence is float32.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.perplexity_branch = nn.Sequential(nn.Linear(2, config.perplexity_width), nn.ReLU(), nn.Dropout(config.dropout))
        self.residual_branch = nn.Sequential(
            nn.Linear(width, config.residual_hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.residual_hidden, config.residual_width),
        )
        self.classifier = nn.Sequential(
            nn.Linear(config.perplexity_width + config.residual_width + width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 2),
        )

    def forward(self, perplexity: Tensor, mean_residual: Tensor, cls: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            perplexity: ``(B, 2)``, mean largest weight and mean entropy.
            mean_residual: ``(B, D)``.
            cls: ``(B, D)``.

        Returns:
            ``(B, 2)`` logits of real and fake.
        """
        with exact_float32(cls.device):
            dtype = next(self.parameters()).dtype
            perplexity, mean_residual, cls = (t.to(dtype) for t in (perplexity, mean_residual, cls))
            features = [self.perplexity_branch(perplexity), self.residual_branch(mean_residual), cls]
            logits: Tensor = self.classifier(torch.cat(features, dim=-1))
            return logits
