"""torch.compile of the backbone: the same scores, and the same names in a saved file."""

from __future__ import annotations

import pytest
import torch

from mirror_pl.detectors import DetectorConfig, MirrorDetector
from mirror_pl.detectors.known_backbones import known_backbone


@pytest.mark.slow  # compiling takes a minute
def test_a_compiled_backbone_gives_the_same_scores() -> None:
    detector = MirrorDetector(DetectorConfig(known_backbone("tiny"), lora=None)).eval()
    names = list(detector.state_dict())
    pixels = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        expected = detector(pixels).p_fake
        detector.backbone.compile()
        assert list(detector.state_dict()) == names
        torch.testing.assert_close(detector(pixels).p_fake, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(detector(pixels[:2]).p_fake, expected[:2], atol=1e-5, rtol=0)  # the last batch is smaller
