"""Memory does not depend on how many pictures there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STEADY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""glibc's own value, which it raises otherwise to 32 MB as a process goes on: then it keeps some freed batches, two or three
or ten as it happens, which says nothing of what this process needs."""

FOLDERS, A_FOLDER = 1000, 1000

SCRIPT = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from flat_detector import FlatDetector
from mirror_pl.prediction import Output, count_items, entries, score

def peak(pid):
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000

inputs, output = [sys.argv[3]], Output(Path(sys.argv[2]))
detector = FlatDetector()
detector.spec = replace(detector.spec, crop_px=16)  # pictures as small as the files
peaks = []
with output.claimed():
    items = output.begin({}, entries(inputs), 256)
    for number, (item, prediction) in enumerate(score(items, detector, batch_size=256, num_workers=2), 1):
        output.add(item, prediction)
        if number % 100_000 == 0:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            peaks.append([number, peak("self"), *sorted(map(peak, children))])
            print(peaks[-1], flush=True)
        if number == 1:
            assert count_items(inputs) > 0
    output.complete({})
print(json.dumps({"rows": output.tally.total, "peaks": peaks, "main_mb": peak("self")}))
"""


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("form", [".csv", ""])
def test_memory_is_flat_from_a_hundred_thousand_to_a_million(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    for folder in range(FOLDERS):
        (tmp_path / f"in/{folder:04d}").mkdir(parents=True)
        for number in range(A_FOLDER):
            path = tmp_path / f"in/{folder:04d}/{number:04d}.jpg"
            if number % 100 == 0:
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
                first = path
            else:
                path.hardlink_to(first)
    given = [
        sys.executable,
        "-c",
        SCRIPT,
        str(Path(__file__).parents[1]),
        str(tmp_path / f"out{form}"),
        str(tmp_path / "in"),
    ]
    done = subprocess.run(given, capture_output=True, text=True, check=False, env=os.environ | STEADY)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(form, found)
    assert found["rows"] == FOLDERS * A_FOLDER
    (_, *early), (_, *late) = found["peaks"][0], found["peaks"][-1]
    assert all(after < 1.1 * before for before, after in zip(early, late, strict=True))
    assert found["main_mb"] < 1.1 * early[0], "making the output takes no more"
