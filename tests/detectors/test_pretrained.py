"""A detector as a published folder: the same to the bit when it is loaded, from a folder or a cache, with an honest card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from golden_set import SMALL
from hub_cache import COMMIT, files_of, put

from mirror_pl.config.command import compose
from mirror_pl.detectors import MirrorDetector, load_detector
from mirror_pl.errors import CheckpointError, ConfigError, OutputError
from mirror_pl.files import path_sha256
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import report
from mirror_pl.locate import miniature_dir

REPO = "someone/mine"


@pytest.fixture(scope="module")
def detector() -> MirrorDetector:
    return load_detector(miniature_dir() / "detector", merge=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "run"
    shared = ["benchmark=chameleon", f"data_root={SMALL.data_root}", "backbone=miniature", "trainer.accelerator=cpu"]
    evaluation.run(compose("eval", [*shared, "num_workers=0", "logger=none", f"output_dir={folder}"]))
    return folder


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def same(one: MirrorDetector, two: MirrorDetector) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_saved_and_loaded(detector: MirrorDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector.save_pretrained(tmp_path / "mine")
    assert same(MirrorDetector.from_pretrained(tmp_path / "mine", merge=False), detector)
    assert same(load_detector(tmp_path / "mine", merge=False), detector)
    with pytest.raises(OutputError, match="exists already"):
        detector.save_pretrained(tmp_path / "mine")
    with pytest.raises(ConfigError, match="has no revisions"):
        MirrorDetector.from_pretrained(tmp_path / "mine", revision="v1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files = files_of(tmp_path / "mine")
    card = files.pop("README.md")
    snapshot = put(tmp_path / "hub", REPO, files, COMMIT, "main", "v1")
    for name in (REPO, f"hf-hub:{REPO}"):
        assert same(MirrorDetector.from_pretrained(name, revision="v1", merge=False), detector)
    assert path_sha256(snapshot) == path_sha256(tmp_path / "mine"), "a calibration fitted on the one is for the other"
    assert b"# " in card
    with pytest.raises(CheckpointError, match=f"hf-hub:{REPO}@v2 is not in the cache"):
        MirrorDetector.from_pretrained(REPO, revision="v2")


def test_the_card_of_an_evaluation(detector: MirrorDetector, run: Path, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "mine", run=run, licence="mit")
    metadata, text = card_of(tmp_path / "mine")
    metrics = json.loads((run / "metrics.json").read_text())["mean"]
    found = {each["type"]: each["value"] for each in metadata["model-index"][0]["results"][0]["metrics"]}
    assert found == {name: metrics[name] for name in ("bal_acc", "real_acc", "fake_acc", "auc", "ap")}
    assert f"| chameleon | {100 * metrics['bal_acc']:.2f} |" in text
    assert (metadata["license"], metadata["library_name"]) == ("mit", "mirror_pl")
    assert "no proof of where a picture comes from" in text
    assert "Of the weights that were trained: mit. The backbone has random weights." in text
    assert str(run) not in text


def test_the_card_of_a_report_has_intervals(detector: MirrorDetector, run: Path, tmp_path: Path) -> None:
    report.run(compose("report", [f"runs=[{run}]", f"output_dir={tmp_path / 'report'}", "replicates=20"]))
    detector.save_pretrained(tmp_path / "mine", run=[tmp_path / "report"])
    figure = json.loads((tmp_path / "report/report.json").read_text())["results"][0]["mean"]["bal_acc"]
    low, high = (f"{100 * figure[end]:.2f}" for end in ("low", "high"))
    assert f"| chameleon | {100 * figure['value']:.2f} ({low} to {high}) |" in card_of(tmp_path / "mine")[1]


def test_the_licence_of_the_backbone(tmp_path: Path) -> None:
    tiny = load_detector(SMALL.checkpoint, backbone_folder=SMALL.backbone_path).config
    mine = MirrorDetector(
        replace(tiny, backbone=replace(tiny.backbone, mlp_width=128))
    )  # of no name whose weights are random
    mine.save_pretrained(tmp_path / "mine", licence="mit")
    metadata, text = card_of(tmp_path / "mine")
    assert (metadata["license"], metadata["license_name"]) == ("other", "dinov3-license")
    assert "trained: mit. The backbone's are in it, a dinov3: DINOv3 License." in text
    assert "Nothing was recorded" in text


def test_a_training_without_its_paths(detector: MirrorDetector, tmp_path: Path) -> None:
    facts = {
        "images": {"used": 1234}, "data": {"fingerprint": "abc"}, "steps": 56, "precision": "32-true", "figures": {"loss": 0.25},
        "versions": {"mirror_pl": "0.1.0"}, "detector": {},
    }  # fmt: skip
    config = {
        "phase": {"epochs": 3, "feature_cache": "/home/me/cache"},
        "optimizer": {"lr": 0.125},
        "data": {"root": "/home/me"},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    detector.save_pretrained(tmp_path / "mine", run=tmp_path / "run")
    _, text = card_of(tmp_path / "mine")
    for said in ("1,234 images (fingerprint abc), 56 steps", "loss: 0.25", "epochs: 3", "lr: 0.125"):
        assert said in text
    assert "/home/me" not in text


def test_what_is_no_run(detector: MirrorDetector, run: Path, tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "is no complete folder"), (run, "is of mirror/miniature, and not of")):
        other = load_detector(SMALL.checkpoint, backbone_folder=SMALL.backbone_path) if folder == run else detector
        with pytest.raises(ConfigError, match=said):
            other.save_pretrained(tmp_path / "mine", run=folder)
        assert not (tmp_path / "mine").exists()


def test_pushed(detector: MirrorDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo_id: str, **settings: Any) -> None:
            sent["made"] = (repo_id, settings)

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> SimpleNamespace:
            sent["files"] = files_of(folder_path)
            return SimpleNamespace(oid=COMMIT)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert detector.push_to_hub(REPO, private=True) == f"hf-hub:{REPO}@{COMMIT}"
    assert sent["made"] == (REPO, {"private": True, "exist_ok": True})
    assert set(sent["files"]) == {"config.json", "model.safetensors", "README.md"}
    assert f'from_pretrained("{REPO}")'.encode() in sent["files"]["README.md"]
    with pytest.raises(ConfigError, match="repo_id: expected"):
        detector.push_to_hub("mine")


def test_the_hub_cannot_be_reached(detector: MirrorDetector) -> None:
    with pytest.raises(OutputError, match=r"repo_id: someone/mine cannot be written: .* hf auth login"):
        detector.push_to_hub(REPO)
