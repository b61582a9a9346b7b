"""What the pages show is run: blocks marked ``<!-- run -->`` here, ``<!-- run slow -->`` with the long proofs.

The commands of all other blocks compose (config/test_configs.py). A page's blocks follow each other in one folder, as a reader
would type them, with what a reader has: the repository's ``data``, pictures, and a checkpoint in the published format.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mirror_pl.config.command import compose
from mirror_pl.jobs import convert
from mirror_pl.locate import CHECKOUT

PAGES = sorted(
    ["README.md", "README_zh.md", *(str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "docs").rglob("*.md"))]
)
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]+?) -->\n)?^```(?P<kind>sh|python|console)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)
_MARKS = re.compile(r"run|run slow|not run: .+")


@dataclass(frozen=True)
class Block:
    mark: str
    kind: str
    code: str


def blocks_of(page: str) -> list[Block]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return [Block(found["mark"] or "", found["kind"], found["code"]) for found in _FENCE.finditer(text)]


def marked(mark: str) -> list[str]:
    return [page for page in PAGES if any(block.mark == mark for block in blocks_of(page))]


@pytest.fixture(scope="module")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature in the published format."""
    file = tmp_path_factory.mktemp("published") / "checkpoint-h-cur.pth"
    convert.run(compose("convert", ["input=data/miniature/detector", f"output={file}"]))
    return file


@pytest.fixture
def reader(tmp_path: Path, published_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who has read the pages before."""
    photographs = CHECKOUT / "data/miniature/photographs"
    (tmp_path / "data").symlink_to(CHECKOUT / "data")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/checkpoint-h-cur.pth").symlink_to(published_file)
    (tmp_path / "photos").mkdir()
    for name in ("picture.jpg", "picture.png", "large.jpg", "photos/a.jpg"):
        shutil.copy(photographs / "coffee.jpg", tmp_path / name)
    (tmp_path / "list.txt").write_text("picture.jpg\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run_blocks(page: str, *marks: str) -> None:
    names: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.mark not in marks:
            continue
        if block.kind == "python":
            exec(compile(block.code, page, "exec"), names)
            continue
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], capture_output=True, text=True)
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", marked("run"))
def test_the_quick_blocks_of_a_page_run(page: str, reader: Path) -> None:
    run_blocks(page, "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", marked("run slow"))
def test_all_blocks_of_a_page_run(page: str, reader: Path) -> None:
    run_blocks(page, "run", "run slow")


@pytest.mark.parametrize("page", PAGES)
def test_each_block_of_python_is_run_or_says_why_not(page: str) -> None:
    for block in blocks_of(page):
        assert not block.mark or _MARKS.fullmatch(block.mark), block.mark
        assert block.kind != "python" or block.mark, block.code
        if block.kind == "python":
            compile(block.code, page, "exec")


def test_both_readmes_show_the_same_commands() -> None:
    def code(page: str) -> list[str]:
        return [re.sub(r" *#.*", "", block.code) for block in blocks_of(page)]

    assert code("README.md") == code("README_zh.md")


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_say_what_the_configs_say() -> None:
    tables = module_of(CHECKOUT / "docs/tables.py")
    for page in tables.PAGES:
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{page}: make tables"
        assert "<!-- table: " in text
    assert (
        tables.linked("GitHub and Hugging Face a/b")
        == "[GitHub](https://github.com/a/b), [Hugging Face](https://huggingface.co/datasets/a/b)"
    )


def test_operations_by_formula_are_those_that_torch_counts() -> None:
    """Of DINOv3-B, whose layers and patches the formula counts, without norms and rotations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mirror_pl.detectors.backbone import Backbone
    from mirror_pl.detectors.known_backbones import known_backbone

    tables = module_of(CHECKOUT / "docs/tables.py")
    (size,) = (size for size in tables.SIZES if size.detector == "mirror, DINOv3-B")
    with torch.device("meta"):
        backbone = Backbone(known_backbone("dinov3_b")).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 1e9 == pytest.approx(size.gflop, rel=0.01)
    assert sum(each.numel() for each in backbone.parameters()) == pytest.approx(size.weights, rel=0.01)


def test_versions_agree() -> None:
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version = {{{version[1]}}}" in (CHECKOUT / "docs/cite.md").read_text(encoding="utf-8")


def test_what_the_site_is_built_with_is_declared() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "docs").glob("*.py"))
    imported = {*re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE)} - {*sys.stdlib_module_names, "mirror_pl"}
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert imported
    assert all(f'"{name}>=' in project for name in imported), imported


def test_durations_have_no_exponent() -> None:
    tables = module_of(CHECKOUT / "docs/tables.py")
    assert [tables.short(number) for number in (9.96, 99.4, 99.6, 100, 12345)] == ["10", "99", "100", "100", "12,000"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((CHECKOUT / "docs/notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path) -> None:
    """From its first cell to its last; what is kept of it has no output, which would be stale."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in content.cells)
    done = NotebookClient(content, timeout=300, resources={"metadata": {"path": str(CHECKOUT)}}).execute()
    shown = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) or "<img" in str(output) for output in shown)
