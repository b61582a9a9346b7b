"""A report of a million predictions, with intervals: seconds and memory of the whole command, and the size of its page.

python bench/report.py [--rows 1000000] [--benchmarks 14] [--detectors 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.scores import Status, make_table, write_table

SRC = Path(__file__).resolve().parents[1] / "src"
SUBSETS = 6
BACKBONE = {"family": "dinov3", "width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096, "registers": 4}


def write_run(folder: Path, benchmark: str, detector: str, images: int, seed: int) -> None:
    """A complete run of made-up scores; each detector's errors are its own."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    logits = generator.normal(np.where(labels == 1, 1.5, -1.5), 1.2).astype(np.float32)
    table = make_table(
        ids=np.arange(images),
        paths=[f"{benchmark}/subset{i % SUBSETS}/{label}_class/image_{i:07d}.jpg" for i, label in enumerate(labels)],
        benchmark=benchmark,
        subsets=[f"subset{i}" for i in range(SUBSETS)],
        subset_ids=np.arange(images) % SUBSETS,
        labels=labels,
        statuses=np.full(images, Status.OK),
        logits=logits,
        p_fake=1 / (1 + np.exp(-logits)),
    )
    write_table(table, folder / "predictions.parquet")
    weights = {"path": f"/weights/{detector}.pth", "sha256": detector.encode().hex().ljust(64, "0")}
    facts = {
        "started": "2026-11-01T10:00:00+00:00", "finished": "2026-11-01T11:00:00+00:00", "precision": "32-true",
        "data": {"root": "/data", "fingerprint": "f" * 64}, "checkpoint": weights, "memory": {"path": None, "sha256": None},
        "miniature": False, "detector": {"backbone": BACKBONE},
    }  # fmt: skip
    metrics = {"benchmark": benchmark, "missing_subsets": {}, "images": {}, "compat": None}
    for name, content in (("run.json", facts), ("metrics.json", metrics)):
        (folder / name).write_text(json.dumps({"schema_version": 1, **content}))
    group = ("standard", "in-the-wild", "human")[seed % 3]
    config = {
        "benchmark": {"name": benchmark, "title": benchmark, "group": group},
        "checkpoint": weights["path"],
        "data_root": "/d",
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--benchmarks", type=int, default=14)
    parser.add_argument("--detectors", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        images = options.rows // (options.benchmarks * options.detectors)
        for benchmark in range(options.benchmarks):
            for detector in range(options.detectors):
                seed = benchmark * options.detectors + detector
                write_run(root / f"runs/{benchmark}-{detector}", f"bench{benchmark}", f"detector{detector}", images, seed)
        command = [sys.executable, "-m", "mirror_pl.report", root / "runs", f"output_dir={root / 'report'}"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(SRC)}, cwd=root)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        page = (root / "report/report.html").stat().st_size / 1e6
    print(f"{options.rows:,} predictions, {options.benchmarks} benchmarks, {options.detectors} detectors, 1000 replicates")
    print(f"{seconds:.1f} s, {peak:.0f} MiB at most, a page of {page:.1f} MB")


if __name__ == "__main__":
    main()
