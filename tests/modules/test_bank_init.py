"""Prototypes from features: k-means against scikit-learn, tokens that are tokens, and mistakes that are named."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans

from mirror_pl.data.batch import Batch
from mirror_pl.detectors import BackboneConfig, DetectorConfig, MemoryBankConfig, MirrorDetector
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.modules import bank_init
from mirror_pl.modules.bank_init import BankInit, check_init, init_from_features, kmeans

CPU = torch.device("cpu")


@pytest.mark.parametrize("together", [64, 2**26])
@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch, iterations: int, together: int) -> None:
    monkeypatch.setattr(bank_init, "_TOGETHER", together)
    points = torch.randn(400, 6, dtype=torch.float64) + torch.arange(400)[:, None] % 7
    start = points[:12]
    theirs = KMeans(12, init=start.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(points.numpy())
    torch.testing.assert_close(kmeans(points, start, iterations), torch.from_numpy(theirs.cluster_centers_))


def test_a_centre_without_points_goes_to_the_farthest() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [30.0]])
    centres = kmeans(points, torch.tensor([[1.0], [1000.0]]), iterations=1)
    assert centres[1].item() == 30.0
    assert torch.equal(kmeans(points, torch.tensor([[1.0], [1000.0]])).sort(dim=0).values, torch.tensor([[1.0], [30.0]]))


def detector(slots: int) -> MirrorDetector:
    backbone = BackboneConfig("dinov3", width=16, depth=1, heads=2, mlp_width=32, registers=2)
    torch.manual_seed(0)
    return MirrorDetector(DetectorConfig(backbone, lora=None, memory_bank=MemoryBankConfig(slots, 2, 4))).eval()


def batches(count: int) -> list[Batch]:
    pixels = torch.randint(0, 256, (count, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    zeros = torch.zeros(3, dtype=torch.int64)
    empty = Batch(zeros[:0], torch.empty(0, 3, 1, 1, dtype=torch.uint8), zeros[:0], zeros[:0], [])
    return [empty, *(Batch(zeros, part, zeros, zeros, []) for part in pixels)]


@pytest.mark.parametrize("init", ["tokens", "kmeans"])
def test_prototypes_come_from_the_images(init: BankInit) -> None:
    one, two, other = (detector(10) for _ in range(3))
    for model, seed in ((one, 0), (two, 0), (other, 1)):
        init_from_features(model, batches(4), init, seed, CPU)
    assert torch.equal(one.memory_bank.memory, two.memory_bank.memory)
    assert not torch.equal(one.memory_bank.memory, other.memory_bank.memory)
    tokens = torch.cat([one.features(batch.pixels / 255).tokens.flatten(0, 1) for batch in batches(4)[1:]])
    distances = (one.memory_bank.memory.detach()[:, None] - tokens.detach()).norm(dim=2)
    assert (distances.amin(dim=1) < 1e-4).all() == (init == "tokens")
    assert (distances.amin(dim=1) < distances.mean()).all()


def test_orthogonal_ones_stay_as_they_are() -> None:
    model = detector(10)
    before = model.memory_bank.memory.clone()
    init_from_features(model, batches(1), "orthogonal", 0, CPU)
    assert torch.equal(model.memory_bank.memory, before)


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match=r"phase\.init=tokens: the images have 18 tokens, too few for 40 prototypes"):
        init_from_features(detector(40), batches(1), "tokens", 0, CPU)
    with pytest.raises(ConfigError, match=r"phase\.init must be one of orthogonal, tokens, kmeans"):
        check_init("random")
