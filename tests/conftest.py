"""What all tests share: no network, no leftovers, and the golden detectors, loaded once."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # with a process for each core, more threads would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_set import ALL, SMALL, GoldenSet
from hydra.core.global_hydra import GlobalHydra

from mirror_pl.detectors import MirrorDetector, Verdict, load_detector
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts in an empty folder, without a Hydra left over from another, with the same random numbers."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    GlobalHydra.instance().clear()
    torch.manual_seed(0)


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder of a user whom file modes bind: for the time of the test root, whom they do not, is somebody else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


@pytest.fixture(scope="session", params=ALL, ids=str)
def golden(request: pytest.FixtureRequest) -> GoldenSet:
    return request.param


@pytest.fixture(scope="session")
def golden_detector(golden: GoldenSet) -> MirrorDetector:
    """The golden detector, with LoRA kept apart as in its file."""
    return load_detector(golden.checkpoint, backbone=read_backbone_folder(golden.backbone_path), merge=False)


@pytest.fixture(scope="session")
def small_detector() -> MirrorDetector:
    return load_detector(SMALL.checkpoint)


@pytest.fixture(scope="session")
def golden_verdict(golden: GoldenSet, golden_detector: MirrorDetector) -> Verdict:
    """The golden detector's verdict on all golden crops, in float32."""
    with torch.inference_mode():
        return golden_detector(golden.pixels())
