"""All measurements on this machine, as tables: python bench [--quick] [--with-loading].

On a GPU with the published sizes; on a CPU with a smaller backbone, so that it ends in a quarter of an hour.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat and small sizes, to see that everything runs")
    parser.add_argument("--with-loading", action="store_true", help="also loading H+, which writes 10.3 GB and takes long")
    options = parser.parse_args()
    few = ["--repeats", "1"] if options.quick else []
    once = ("report",)  # what has no repeats
    tasks = {
        "retrieval": [],
        "detector": ["--backbone", "tiny", "--images", "16", "--batch", "8"] if options.quick else [],
        "training": ["--backbone", "tiny", "--batch", "2", "--memory-batch", "2"] if options.quick else [],
        "baselines": ["--images", "2"] if options.quick else [],
        "decode": ["--files", "1"] if options.quick else [],
        "suite": ["--images", "1", "--side", "64", "--suite", "techjam", "--backbone", "tiny"] if options.quick else [],
        "predict": [],
        "ray_engine": ["--shards", "4"] if options.quick else [],
        "index": ["--files", "4000"] if options.quick else [],
        "report": ["--rows", "20000", "--benchmarks", "2"] if options.quick else [],
        "loading": ["--backbone", "tiny"] if options.quick else [],
    }
    if not (options.with_loading or options.quick):
        del tasks["loading"]
    failed = []
    for name, arguments in tasks.items():  # each in a process of its own: no memory and no threads left over
        print(f"\n## {name}\n", flush=True)
        done = subprocess.run([sys.executable, HERE / f"{name}.py", *([] if name in once else few), *arguments], check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
