"""The list of published weights, and fetching: from a cache of the Hub, and from a Google Drive that the test plays."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
from hub_cache import COMMIT, put

from mirror_pl.config.command import compose
from mirror_pl.errors import CheckpointError, ConfigError, IncompleteRunError
from mirror_pl.hub import HubId
from mirror_pl.jobs import weights
from mirror_pl.locate import config_dir
from mirror_pl.pinned_weights import published_weights

CONTENT = b"weights"


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The shipped ones, but of sizes and hashes that the test can make."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "300")
    facts: dict[str, Any] = {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    found = {name: replace(each, **facts) if each.sha256 else each for name, each in published_weights().items()}
    for module in ("mirror_pl.jobs.weights", "mirror_pl.hub"):
        monkeypatch.setattr(f"{module}.published_weights", lambda: found)
    return found


def listed(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, str]:
    weights.run(compose("weights", [*overrides, "paths.checkpoints=here"]))
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines if line.split() and line.split()[0] in published_weights()}


def put_here(name: str, content: bytes = CONTENT) -> None:
    file = Path("here") / published_weights()[name].file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def test_the_shipped_facts_are_sound() -> None:
    checkpoints = {
        line.partition("${paths.checkpoints}/")[2].split()[0]
        for file in (*config_dir().glob("detector/*.yaml"), *config_dir().glob("backbone/*.yaml"))
        for line in file.read_text().splitlines()
        if "${paths.checkpoints}/" in line
    }
    files = {each.file for each in published_weights().values()}
    assert checkpoints <= files | {str(Path(file).parent) for file in files}, "of every default, it is known where to get it"
    for each in published_weights().values():
        assert each.hub is None or HubId.parse(each.hub).file
        assert each.sha256 is None or (len(each.sha256) == 64 and int(each.sha256, 16))


def test_what_is_here(known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_here("effort")
    put_here("dda", b"anything")
    found = HubId.parse(known["commfor_384"].hub)
    put(tmp_path / "hub", found.repo, {"model.safetensors": CONTENT, "config.json": b"{}"}, str(found.revision))
    put(tmp_path / "hub", HubId.parse(known["dinov3_l"].hub).repo, {"model.safetensors": b"x"}, COMMIT, "main")
    lines = listed(capsys)
    assert set(lines) == set(known)
    for name, said in {
        "effort": "verified", "commfor_384": "verified", "dda": "there, no sha256 is known", "npr": "missing",
        "dinov3_l": "there, no sha256 is known", "rine_2class": "missing",
    }.items():  # fmt: skip
        assert said in lines[name]
    assert str(Path("here/DDA_ckpt.pth")) in lines["dda"]
    assert "non-profit use only" in lines["bfree"]
    assert "https://github.com/grip-unina/B-Free" in lines["bfree"]


def test_another_file_is_told(known: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    put_here("effort", b"WEIGHTS")
    with pytest.raises(
        IncompleteRunError, match=r"here/effort_clip.* is not Effort.*: expected sha256 .*, got .*fetch=\[effort\]"
    ):
        listed(capsys)
    assert "another file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fetch", "error", "said"),
    [
        ("[efort]", ConfigError, "there is no efort. Did you mean effort"),
        ("[dda]", ConfigError, "cannot be fetched from here; get DDA_ckpt.pth from"),
        (
            "[commfor_384]",
            CheckpointError,
            "fetch: hf-hub:OwensLab/commfor-model-384@.* hf download OwensLab/commfor-model-384",
        ),
        ("[effort]", ConfigError, r"pip install 'mirror_pl\[drive\]', or get it from https://drive"),
    ],
)
def test_what_cannot_be_fetched(
    known: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fetch: str,
    error: Any,
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(error, match=said):
        listed(capsys, f"fetch={fetch}")


def drive(monkeypatch: pytest.MonkeyPatch, content: bytes, name: str = "effort_clip_L14_trainOn_sdv14.pth") -> list[str]:
    """Play gdown, which lists a folder and downloads a file of it; return the ids that are asked for."""
    asked: list[str] = []

    def download_folder(id: str, **_: Any) -> list[Any]:
        asked.append(id)
        return [SimpleNamespace(id="1", path="other.pth"), SimpleNamespace(id="2", path=f"folder/{name}")]

    def download(id: str, output: str, **_: Any) -> str:
        asked.append(id)
        assert Path(output).name != name, "under a temporary name"
        Path(output).write_bytes(content)
        return output

    module = ModuleType("gdown")
    vars(module).update(download_folder=download_folder, download=download)
    monkeypatch.setitem(sys.modules, "gdown", module)
    return asked


def test_fetched_from_drive(
    known: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = drive(monkeypatch, CONTENT)
    assert "verified" in listed(capsys, "fetch=[effort]")["effort"]
    assert asked == [known["effort"].drive, "2"]
    assert [file.name for file in Path("here").iterdir()] == [known["effort"].file]
    listed(capsys, "fetch=[effort]")
    assert len(asked) == 2, "it is there already"


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (
            b"WEIGHTS",
            "effort_clip_L14_trainOn_sdv14.pth",
            "here/effort_clip_L14_trainOn_sdv14.pth is not Effort.* expected sha256",
        ),
        (b"short", "effort_clip_L14_trainOn_sdv14.pth", "expected 7 bytes, got 5"),
        (CONTENT, "moved.pth", "there is no effort_clip_L14_trainOn_sdv14.pth to be had in https://drive"),
    ],
)
def test_what_drive_has_is_another(
    known: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    name: str,
    said: str,
) -> None:
    drive(monkeypatch, content, name)
    with pytest.raises(CheckpointError, match=said):
        listed(capsys, "fetch=[effort]")
    assert not list(Path("here").iterdir()), "nothing is left of it"
