"""Build sdist and wheel, check what the wheel holds, install it in a fresh environment and run the default elsewhere.

Run by `make test-package`; it takes minutes, so it is no part of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def call(*command: str | Path, cwd: Path = ROOT) -> None:
    print("+", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([str(part) for part in command], cwd=cwd, check=True, env=environment)


def check_content(wheel: Path) -> None:
    """Every file of the package and every config must be in the wheel: packaging loses files without a word."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith(("mirror_pl/", "hydra_plugins/"))}
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {name.removeprefix("src/") for name in tracked.splitlines()}
    configs = {f"mirror_pl/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.yaml")}
    shipped = {name for name in packed if not name.startswith(("mirror_pl/configs/", "mirror_pl/miniature_data/"))}
    assert shipped == files, shipped ^ files
    assert {name for name in packed if name.endswith(".yaml")} == configs
    assert "mirror_pl/miniature_data/detector/model.safetensors" in packed
    print(f"{wheel.name}: {len(files)} files, {len(configs)} configs, {wheel.stat().st_size:,} bytes")


def check_source(sdist: Path) -> None:
    """The source distribution has what its tests need, and nothing of what was computed here."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("tests/conftest.py", "configs/eval.yaml", "docs/index.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"):
        assert wanted in names, wanted
    strays = [name for name in names if name.startswith(("outputs/", "checkpoints/", ".venv")) or "__pycache__" in name]
    assert not strays, strays


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(sys.executable, "-m", "build", "--outdir", folder, ".")
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        check_content(wheel)
        check_source(sdist)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        call(sys.executable, "-m", "venv", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        call(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        call(python, "-m", "mirror_pl.eval", cwd=elsewhere)
        call(python, "-m", "mirror_pl.eval", "--cfg", "job", "benchmark=genimage", "backbone=dinov3_hplus", cwd=elsewhere)
        (run,) = (elsewhere / "outputs/eval/miniature").iterdir()
        assert (run / "run.json").is_file()
        assert "nearest," in next(run.glob("miniature_*.csv")).read_text()
        call(python, "-m", "mirror_pl.eval", "-m", "benchmark=miniature", cwd=elsewhere)  # the sweeper is a plugin
        script = folder / "venv" / "bin" / "mirror-pl"
        call(script, "report", "outputs/sweeps/eval", "output_dir=report", cwd=elsewhere)
        assert "</html>" in (elsewhere / "report/report.html").read_text()
        call(script, "predict", ROOT / "data/miniature/photographs/coffee.jpg", cwd=elsewhere)
        for kept in sys.argv[1:]:  # a folder to keep what was checked in, for a release
            Path(kept).mkdir(exist_ok=True)
            shutil.copy2(wheel, kept)
            shutil.copy2(sdist, kept)
    print("the wheel works")


if __name__ == "__main__":
    main()
