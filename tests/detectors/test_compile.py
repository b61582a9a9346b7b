"""torch.compile of the backbone: the same scores, and the same names in a saved file."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from mirror_pl.detectors import DetectorConfig, MirrorDetector
from mirror_pl.detectors.known_backbones import known_backbone


@pytest.mark.slow  # compiling takes a minute
def test_a_compiled_backbone_gives_the_same_scores() -> None:
    detector = MirrorDetector(DetectorConfig(known_backbone("tiny"), lora=None)).eval()
    names = list(detector.state_dict())
    pixels = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        expected = detector(pixels).p_fake
        torch._dynamo.reset()
        detector.compile_backbone()
        assert list(detector.state_dict()) == names
        torch.testing.assert_close(detector(pixels).p_fake, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(detector(pixels[:2]).p_fake, expected[:2], atol=1e-5, rtol=0)
    assert detector.compiled
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2, "one for all layers, and one for other batch sizes"
