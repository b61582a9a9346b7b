"""The house rules on imports: who may know whom, and that importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mirror_pl

PACKAGE = Path(mirror_pl.__file__).parent
COMMANDS = {
    "eval",
    "robustness",
    "predict",
    "app",
    "serve",
    "train",
    "convert",
    "check_data",
    "report",
    "gallery",
    "calibrate",
    "weights",
}
SHARED = {
    "errors",
    "labels",
    "files",
    "locate",
    "provenance",
    "changes",
    "stopping",
    "store",
    "texts",
    "abstention",
    "calibration",
    "hub",
    "pinned_weights",
}  # plain modules that know no room

# Room -> rooms it may import from, besides SHARED.
ALLOWED = {
    "sources": set(),
    "images": {"sources"},
    "retrieval": set(),
    "miniature": {"images"},
    "scores": set(),
    "benchmarks": {"sources"},
    "detectors": {"retrieval", "images"},
    "prediction": {"images", "sources", "detectors"},
    "data": {"images", "sources", "scores", "benchmarks", "detectors"},
    "modules": {"data", "images", "scores", "benchmarks", "detectors"},
    "callbacks": {"modules", "data", "scores", "detectors"},
    "reports": {"scores", "benchmarks"},
    "serving": {"detectors", "images", "sources", "prediction", "explanation"},
    "config": {"sources", "images", "scores", "benchmarks", "detectors", "data", "callbacks"},
    "jobs": {
        "sources",
        "config",
        "callbacks",
        "modules",
        "data",
        "reports",
        "scores",
        "benchmarks",
        "detectors",
        "retrieval",
        "images",
        "miniature",
        "prediction",
        "serving",
        "explanation",
    },
    **{name: {"start"} for name in COMMANDS},
    "start": {"config", "jobs"},
    **{name: {"errors", "texts"} for name in SHARED},
    "store": {"sources"},
    "explanation": {"detectors", "images", "reports"},
    "__init__": {"detectors", "data", "modules", "explanation"},
    "__main__": {"start", "config"},
}
# Library -> the only rooms that may import it.
CONFINED = {
    "lightning": {"data", "modules", "callbacks", "config", "jobs"},  # the last two for its types and errors only
    "hydra": {"config"},
    "pydantic": {"config"},
    "omegaconf": {"config", "jobs", "start"},
    "transformers": {"detectors"},
    "ray": {"prediction"},
    "peft": {"detectors"},
    "torchao": {"detectors"},
    "huggingface_hub": {"hub", "detectors"},
    "gdown": {"jobs"},
    "wandb": {"callbacks", "reports"},  # the first for how a run begins and ends, the second for what is in it
    "matplotlib": {"reports"},
    "torchmetrics": {"scores"},
    "scipy": {"scores"},
    "sklearn": {"scores"},
    "rich": {"reports", "jobs"},
    "jinja2": {"reports"},
    "gradio": {"serving"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "c2pa": {"images"},
}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(node.module or "")
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        library = name.split(".")[0]
        if library != "mirror_pl":
            assert room in CONFINED.get(library, {room}), f"{room} imports {library}"
        elif "." in name and (other := name.split(".")[1]) != room:
            assert other in ALLOWED[room] | SHARED, f"{room} imports {other}"


def test_importing_the_package_stays_light() -> None:
    heavy = ["hydra", "wandb", "transformers", "matplotlib", "torch", "lightning"]
    code = f"import sys, mirror_pl; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_starts_quickly() -> None:
    code = (
        "import sys, mirror_pl.eval; print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_parts_need_neither_hydra_nor_dashboards() -> None:
    """They are used on machines that have torch and Lightning alone."""
    absent = "('hydra', 'wandb')"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import mirror_pl;"
        "data = mirror_pl.BenchmarkDataModule('miniature', num_workers=0);"
        "module = mirror_pl.DetectorModule(mirror_pl.load_detector('miniature'));"
        "print(len(data.index), module.recipe[1], mirror_pl.MemoryBankModule.__name__, mirror_pl.TrainingDataModule.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["center", "MemoryBankModule", "TrainingDataModule"]


def test_the_detector_needs_neither_hydra_nor_lightning() -> None:
    code = (
        "import sys; from mirror_pl import load_detector; import mirror_pl.retrieval, mirror_pl.images;"
        "print([name for name in ('hydra', 'omegaconf', 'lightning', 'wandb', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
