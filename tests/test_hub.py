"""Files named by id on the Hugging Face Hub, in a cache that the test lays out, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from golden_set import HERE, SMALL
from hub_cache import COMMIT, OLDER, files_of, put

from mirror_pl.config.command import compose
from mirror_pl.config.schema import EvalSettings, read_settings
from mirror_pl.detectors import load_detector
from mirror_pl.detectors.checkpoint import BackboneSource
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.hub import HubId, full_path, local_path, origin
from mirror_pl.jobs import eval as evaluation
from mirror_pl.locate import miniature_dir
from mirror_pl.pinned_weights import published_weights

REPO = "someone/mirror-mini"
PINNED = "OwensLab/commfor-model-384"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    put(cache, REPO, files_of(miniature_dir() / "detector"), COMMIT, "main", "refs/pr/1")
    put(cache, REPO, {"config.json": b"{}", "model.safetensors": b"other", "sub/a.pth": b"a"}, OLDER, "v1")
    return cache


def test_found_by_id_and_by_revision(cache: Path) -> None:
    snapshots = cache / "models--someone--mirror-mini/snapshots"
    assert Path(local_path(f"hf-hub:{REPO}")) == snapshots / COMMIT
    assert Path(local_path(f"hf-hub:{REPO}@main")) == snapshots / COMMIT
    assert Path(local_path(f"hf-hub:{REPO}@{COMMIT}")) == snapshots / COMMIT
    assert Path(local_path(f"hf-hub:{REPO}@v1")) == snapshots / OLDER
    assert Path(local_path(f"hf-hub:{REPO}/sub/a.pth@v1")) == snapshots / OLDER / "sub/a.pth"
    assert origin(snapshots / OLDER / "sub/a.pth") == f"hf-hub:{REPO}/sub/a.pth@{OLDER}"
    assert origin(snapshots / COMMIT) == f"hf-hub:{REPO}@{COMMIT}"
    assert full_path(snapshots / OLDER / "sub/a.pth").endswith("a.pth"), "and not the blob's name"
    assert origin(cache) is None
    assert local_path("checkpoints/x.pth") == "checkpoints/x.pth"


def test_a_local_path_wins(cache: Path) -> None:
    Path("hf-hub:someone").mkdir()
    Path(f"hf-hub:{REPO}").write_text("mine")
    assert local_path(f"hf-hub:{REPO}") == f"hf-hub:{REPO}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "hf-hub:someone/mirror-mini@v2",
            r"no revision v2. Did you mean v1\? There are .*hf download someone/mirror-mini --revision v2",
        ),
        (
            "hf-hub:someone/mirror-mini/modle.safetensors",
            r"main, it has config.json, model.safetensors. Did you mean model.safetensors\?",
        ),
        ("hf-hub:someone/else", "is not in the cache, and huggingface_hub is offline .* run: hf download someone/else$"),
        ("hf-hub:someone/else/a.pth@v1", "run: hf download someone/else a.pth --revision v1$"),
    ],
)
def test_what_is_not_in_the_cache(cache: Path, name: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        local_path(name)


@pytest.mark.parametrize(
    "name", ["hf-hub:x", "hf-hub:a/b/../c", "hf-hub:../b", "hf-hub:a/b@", "hf-hub:a/b//c", "hf-hub:-a/b"]
)
def test_what_is_no_id(name: str) -> None:
    with pytest.raises(ConfigError, match=r"memory_path: expected hf-hub:org/name"):
        local_path(name, "memory_path")


def test_a_repository_without_safetensors(cache: Path) -> None:
    put(cache, "someone/pickles", {"config.json": b"{}", "w.pth": b"x"}, COMMIT, "main")
    with pytest.raises(
        CheckpointError,
        match=r"has no safetensors, but config.json, w.pth. Name the file of its weights, as hf-hub:someone/pickles/FILE",
    ):
        local_path("hf-hub:someone/pickles")


@pytest.mark.parametrize("name", [f"hf-hub:{PINNED}", f"hf-hub:{PINNED}/model.safetensors"])
def test_another_content_than_is_pinned(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pinned = published_weights()["commfor_384"]
    revision = HubId.parse(str(pinned.hub)).revision
    assert revision is not None
    files = files_of(HERE / "baselines/univfd/clip-tiny-hf")
    snapshot = put(cache, PINNED, files, revision)
    with pytest.raises(CheckpointError, match=f"expected 87262324 bytes, got {len(files['model.safetensors'])}. Delete it"):
        local_path(name)
    object.__setattr__(pinned, "bytes", None)
    try:
        with pytest.raises(CheckpointError, match=rf"{snapshot}/model.safetensors is not .* expected sha256 b89f36.*, got"):
            local_path(name)
    finally:
        object.__setattr__(pinned, "bytes", 87262324)
    put(cache, PINNED, files, OLDER, "mine")
    assert Path(local_path(f"{name}@mine")).exists(), "nothing is known of other revisions"


class _Response:
    status_code, headers, request = 404, {}, None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("GatedRepoError", r"is gated. Ask for access at https://huggingface.co/a/b, then log in: hf auth login"),
        ("RepositoryNotFoundError", "a/b/c.pth@v1: there is no such repository on the Hub, or it is private"),
        ("RevisionNotFoundError", "a/b has no revision v1"),
        ("EntryNotFoundError", "there is no file c.pth in a/b"),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, error: str, said: str) -> None:
    kind = getattr(huggingface_hub.errors, error)

    def refuse(*_: object, **__: object) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match=said):
        local_path("hf-hub:a/b/c.pth@v1")


def test_the_settings_that_take_ids(cache: Path) -> None:
    put(cache, "someone/dino", files_of(SMALL.backbone_path), COMMIT, "main")
    name = f"hf-hub:{REPO}"
    ids = [
        f"checkpoint={name}@v1",
        "backbone.path=hf-hub:someone/dino",
        f"memory_path={name}/sub/a.pth@v1",
        f"heads=[{name}]",
    ]
    cfg = compose("eval", ids)
    settings = read_settings(cfg, EvalSettings)
    paths = [settings.checkpoint, settings.backbone.path, settings.memory_path, *(settings.heads or ())]
    assert [origin(str(path)) for path in paths] == [
        f"{name}@{OLDER}", f"hf-hub:someone/dino@{COMMIT}", f"{name}/sub/a.pth@{OLDER}", f"{name}@{COMMIT}"
    ]  # fmt: skip
    assert [cfg.checkpoint, cfg.backbone.path, cfg.memory_path, *cfg.heads] == paths
    recorded = BackboneSource.of(Path(str(settings.backbone.path))).to_dict()
    assert recorded["hub"] == f"hf-hub:someone/dino@{COMMIT}", "as a training's record and checkpoint have it"
    with pytest.raises(ConfigError, match="batch_size"):
        read_settings(compose("eval", ["checkpoint=hf-hub:someone/else", "batch_size=0"]), EvalSettings)
    with pytest.raises(CheckpointError, match=r"backbone.path: hf-hub:someone/else is not in the cache"):
        read_settings(compose("eval", ["backbone.path=hf-hub:someone/else"]), EvalSettings)


def test_in_python(cache: Path) -> None:
    assert load_detector(f"hf-hub:{REPO}").name == load_detector("miniature").name
    for setting in ("checkpoint", "heads", "input"):
        assert local_path("miniature", setting) == str(miniature_dir() / "detector")
    assert local_path("miniature", "memory_path") == "miniature"
    with pytest.raises(CheckpointError, match="memory_path: hf-hub:someone/else is not in the cache"):
        load_detector("miniature", memory_path="hf-hub:someone/else")


def test_a_command_refuses_before_its_imports(cache: Path, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    code = "import sys; sys.modules['torch'] = None; from mirror_pl.eval import main; main()"
    command = [sys.executable, "-c", code, f"checkpoint=hf-hub:{REPO}@v2", f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "run").exists()) == (2, False)
    assert "error: checkpoint: hf-hub:someone/mirror-mini@v2 is not in the cache" in done.stderr


def test_an_evaluation_by_id_and_its_repetition(cache: Path, tmp_path: Path) -> None:
    """Its record has the id with the commit, by which it is repeated."""
    shared = [
        "benchmark=chameleon",
        f"data_root={SMALL.data_root}",
        "trainer.accelerator=cpu",
        "num_workers=0",
        "logger=none",
    ]
    first, second = tmp_path / "first", tmp_path / "second"
    evaluation.run(compose("eval", [*shared, f"checkpoint=hf-hub:{REPO}", f"output_dir={first}"]))
    evaluation.run(compose("eval", [*shared[2:], f"repeat={first}", f"output_dir={second}"]), {"output_dir"})
    for folder in (first, second):
        facts = json.loads((folder / "run.json").read_text())
        assert facts["checkpoint"]["hub"] == facts["config"]["checkpoint"] == f"hf-hub:{REPO}@{COMMIT}"
    assert facts["repeats"]["agrees"]
