"""No file crashes, hangs or bloats a run, and each ends as a score or a reason."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flat_detector import FlatDetector
from hostile_files import bombs, mutated, pictures

from mirror_pl.detectors import Prediction
from mirror_pl.prediction import Item, Limits, score

MOST_BYTES_A_PIXEL = 22
"""Of the process that decodes it, of the formats here; that of JPEG 2000."""


class Watch:
    """The most memory that any child of this process has taken, sampled."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                except OSError:
                    continue
                if lines["PPid"].strip() == str(os.getpid()) and "VmHWM" in lines:
                    self.peak = max(self.peak, int(lines["VmHWM"].split()[0]) * 1024)


def written(files: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Write files into ``in``, and yield their names."""
    Path("in").mkdir(exist_ok=True)
    for name, content in files:
        (Path("in") / name).write_bytes(content)
        yield name


def state() -> dict[Path, tuple[int, int, int]]:
    return {path: ((s := path.stat()).st_size, s.st_mtime_ns, s.st_ctime_ns) for path in Path().rglob("*")}


def check(names: Iterable[str], limits: Limits, longest_s: float) -> tuple[list[Prediction], int]:
    items = [Item.of_file(f"in/{name}") for name in names]
    before = state()
    found = []
    last = time.monotonic()
    with Watch() as watch:
        for item, prediction in score(items, FlatDetector(), num_workers=2, batch_size=1, limits=limits):
            assert item == items[len(found)]
            found.append(prediction)
            now = time.monotonic()
            assert now - last < longest_s, f"{item.path} took {now - last:.1f} s"
            last = now
    assert len(found) == len(items)
    for prediction in found:
        if prediction.status in ("ok", "truncated"):
            assert prediction.p_fake is not None
            assert 0 <= prediction.p_fake <= 1
        else:
            assert prediction.status == "undecodable"
            assert prediction.reason
            assert "\n" not in prediction.reason
        assert (prediction.status == "ok") == (prediction.reason == "")
    assert before == state(), "nothing is written"
    return found, watch.peak


def test_mutated_files() -> None:
    found, _ = check(written([*pictures().items(), *mutated(300)]), Limits(), 10)
    assert {prediction.status for prediction in found[: len(pictures())]} == {"ok"}
    statuses = Counter(prediction.status for prediction in found)
    assert statuses["undecodable"] > 30
    assert statuses["truncated"] > 10


def test_bombs_within_small_limits() -> None:
    names = list(written([("ok.png", pictures()["4.png"]), *bombs(2), ("last.png", pictures()["4.png"])]))
    found, _ = check(names, Limits(max_megapixels=2, timeout_s=3), 10)
    by_name = dict(zip(names, found, strict=True))
    for name in ("declares-too-much.png", "declares-most.png", "all-zeros-beyond.png", "large-screen.gif"):
        assert "DecompressionBombError" in by_name[name].reason, name
    for name in ("ok.png", "last.png", "all-zeros-within.png", "one-row.png", "one-column.png", "large-and-flat.webp"):
        assert by_name[name].status == "ok", (name, by_name[name].reason)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_mutated_files() -> None:
    statuses: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    peak = 0
    for seed in range(20):
        found, most = check(written(mutated(1000, seed)), Limits(), 10)
        peak = max(peak, most)
        statuses.update(prediction.status for prediction in found)
        kinds.update(prediction.reason.split(":")[0] for prediction in found if prediction.reason)
        for path in Path("in").iterdir():
            path.unlink()
    print(f"{statuses}, {kinds.most_common(12)}, most memory of a decoding process {peak / 1e6:.0f} MB")
    assert statuses.total() == 20000
    assert peak < MOST_BYTES_A_PIXEL * 1e6 * Limits().max_megapixels


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bombs_within_the_default_limits() -> None:
    maker = multiprocessing.get_context("fork").Process(target=lambda: list(written(bombs(178))))
    maker.start()  # what is forked from this process would have the memory that making them takes
    maker.join()
    names = sorted(path.name for path in Path("in").iterdir())
    found, peak = check(names, Limits(), 10)
    for name, prediction in zip(names, found, strict=True):
        print(f"{name}: {prediction.status} {prediction.reason[:110]}")
    print(f"most memory of a decoding process {peak / 1e6:.0f} MB, {peak / 178e6:.1f} bytes a pixel")
    assert peak < MOST_BYTES_A_PIXEL * 1e6 * Limits().max_megapixels
