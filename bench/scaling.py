"""Seconds and memory against how much there is: images of 16 x 16 px for the commands, slots and tokens for the retrieval.

Pictures are 100 different ones, in tars of a thousand, and the detector is all but nothing, so that what is around
detectors is what is measured. Each point is one run. Memory is the peak of the largest process of a command; beside it is
which that was. Exponents are slopes of least squares in the logarithms of the last two decades of sizes: of seconds less
those of 16 images (of a report, 14 x 3 runs of 4), which are the start of the command, and of memory as it is. What is in
the file of --json is not measured again with --resume.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hydra  # noqa: F401 - commands need it
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import index
from mirror_pl.detectors import Detector, Verdict
from mirror_pl.files import write_text
from mirror_pl.images import PreprocessSpec
from mirror_pl.scores import Status, make_table, write_table
from paired import HERE, SRC, Row, added_mib, command, cores, fresh, quick

START = 16
"""Images of a run whose seconds are its start."""
KINDS = ("index", "eval", "report", "predict", "slots", "tokens", "ranks")


class Brightness(Detector):
    """A detector that is all but nothing."""

    def __init__(self) -> None:
        super().__init__(PreprocessSpec(crop_px=16, align_suffixes=()))

    @classmethod
    def load(cls, checkpoint: object, **_: object) -> Brightness:
        """Load nothing, whatever the checkpoint."""
        del checkpoint
        return cls().eval()

    def score(self, pixels: Tensor) -> Verdict:
        """Score by brightness."""
        logit = pixels.mean(dim=(1, 2, 3)) - 0.5
        return Verdict(logit, logit.sigmoid(), {})


def write_shards(folder: Path, images: int, of_tar: int = 1000) -> None:
    """Tars of reals and of fakes, in turn."""
    rng, pictures = np.random.default_rng(0), []
    for _ in range(100):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 100, (16, 16, 3), np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    of_tar = min(of_tar, images // 2)
    for first in range(0, images, of_tar):
        path = folder / ("0_real", "1_fake")[first // of_tar % 2] / f"{first:08d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for number in range(first, min(first + of_tar, images)):
                info = tarfile.TarInfo(f"{number:08d}.png")
                info.size = len(pictures[number % 100])
                tar.addfile(info, io.BytesIO(pictures[number % 100]))


BACKBONE = {"family": "dinov3", "width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096, "registers": 4}
SUBSETS = 6


def write_run(folder: Path, benchmark: str, detector: str, images: int, seed: int) -> None:
    """A complete run of made-up scores; each detector's errors are its own."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    logits = generator.normal(np.where(labels == 1, 1.5, -1.5), 1.2).astype(np.float32)
    paths = [f"{benchmark}/subset{i % SUBSETS}/{label}_class/image_{i:07d}.jpg" for i, label in enumerate(labels)]
    table = make_table(
        ids=np.arange(images), paths=paths, benchmark=benchmark, subsets=[f"subset{i}" for i in range(SUBSETS)],
        subset_ids=np.arange(images) % SUBSETS, labels=labels, statuses=np.full(images, Status.OK), logits=logits,
        p_fake=1 / (1 + np.exp(-logits)),
    )  # fmt: skip
    write_table(table, folder / "predictions.parquet")
    weights = {"path": f"/weights/{detector}.pth", "sha256": detector.encode().hex().ljust(64, "0")}
    facts = {
        "started": "2026-11-01T10:00:00+00:00", "finished": "2026-11-01T11:00:00+00:00", "precision": "32-true",
        "data": {"root": "/data", "fingerprint": "f" * 64}, "checkpoint": weights, "memory": {"path": None, "sha256": None},
        "miniature": False, "detector": {"backbone": BACKBONE},
    }  # fmt: skip
    metrics = {"benchmark": benchmark, "missing_subsets": {}, "images": {}, "compat": None}
    for name, content in (("run.json", facts), ("metrics.json", metrics)):
        write_text(folder / name, json.dumps({"schema_version": 1, **content}))
    of_benchmark = {"name": benchmark, "title": benchmark, "group": ("standard", "in-the-wild", "human")[seed % 3]}
    config = {"benchmark": of_benchmark, "checkpoint": weights["path"], "data_root": "/d"}
    write_text(folder / "config.yaml", json.dumps(config))  # JSON is YAML


def listed(folder: str) -> tuple[float, float]:
    """Seconds and added MiB of an index."""
    seconds = 0.0

    def work() -> None:
        nonlocal seconds
        start = time.perf_counter()
        index.index_benchmark(index.MANIFEST, Path(folder), {".png"})
        seconds = time.perf_counter() - start

    mib = added_mib(work, torch.device("cpu"))
    return seconds, mib


def pooled(slots: int, tokens: int) -> tuple[float, float]:
    """Median seconds and added MiB of the retrieval of an image, 8 heads of width 160, 128 slots kept."""
    from mirror_pl.retrieval import pool

    queries, (keys, values) = torch.randn(1, 8, tokens, 160), torch.randn(2, 8, slots, 160)
    work = partial(pool, queries, keys, values, 128)
    mib, seconds = added_mib(work, torch.device("cpu")), []
    for _ in range(7):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), mib


def measured(kind: str, size: int, root: Path, ranks: int = 1) -> tuple[float, float, str]:
    """Seconds, MiB and what process they are of: of a command, or of a part of the library in a process of its own."""
    if kind in ("slots", "tokens"):
        return *fresh(pooled, *((size, 200) if kind == "slots" else (4096, size))), "a process, what it added"
    if kind == "index":
        index.make_tree(root / "data", size)
        return *fresh(listed, str(root / "data")), "a process, what it added"
    if kind == "report":
        for number in range(14 * 3):
            benchmark, detector = divmod(number, 3)
            images = max(4, size // (14 * 3))
            write_run(root / f"runs/{number}", f"bench{benchmark}", f"detector{detector}", images, number)
        return command("report", str(root / "runs"), f"output_dir={root / 'out'}", cwd=root)
    write_shards(root / "data", size)
    (root / "none.pth").touch()
    given = ["detector._target_=scaling.Brightness", "trust=scaling", f"checkpoint={root / 'none.pth'}"]
    path = os.pathsep.join(map(str, (HERE, SRC)))
    if kind == "predict":
        return command("predict", f"{root}/data/*/*.tar", f"output={root / 'out.csv'}", *given, cwd=root, PYTHONPATH=path)
    strategy = ["trainer.strategy=ddp"] if ranks > 1 else []
    given += [
        f"trainer.devices={ranks}",
        "trainer.accelerator=cpu",
        "benchmark=folder",
        f"data_root={root / 'data'}",
        *strategy,
    ]
    return command("eval", f"output_dir={root / 'out'}", *given, cwd=root, PYTHONPATH=path)


def neighbours(repeats: int = 5) -> Iterator[Row]:
    """The default evaluation beside busy loops; set GOMP_SPINCOUNT=300000 for libgomp's default."""
    found: dict[int, list[float]] = {0: [], 2: []}
    for _ in range(repeats):
        for count, seconds in found.items():
            loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            try:
                with tempfile.TemporaryDirectory() as folder:
                    seconds.append(command("eval", f"output_dir={folder}/run", cwd=Path(folder))[0])
            finally:
                for loop in loops:
                    loop.kill()
                    loop.wait()
    for count, seconds in found.items():
        yield Row(f"beside {count} loops", "s", seconds, base="beside 0 loops")


@quick(images=1000)
def ray(images: int = 10_000, repeats: int = 5) -> Iterator[Row]:
    """What Ray costs on one machine: a run but for the start of the cluster; that of its actors is in it.

    On one machine two processes decode; with Ray an actor per core has one that decodes. Needs mirror_pl[ray].
    """
    sys.path.insert(0, str(HERE.parent / "tests"))
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ["PYTHONPATH"]])  # of Ray's processes too
    import ray_driver

    from mirror_pl.prediction.on_ray import connected

    rates: dict[str, list[float]] = {"our own engine": [], "Ray": []}
    with tempfile.TemporaryDirectory() as name, connected(None):
        write_shards(Path(name), images, of_tar=250)
        files = sorted(map(str, Path(name).rglob("*.tar")))
        for round_ in range(repeats + 1):
            for (way, found), address in zip(rates.items(), ("none", None), strict=True):
                seconds = ray_driver.main(address, Path(name) / f"{way[:3]}{round_}.jsonl", 0, files, workers=2)
                found.extend([images / seconds] * (round_ > 0))
    for way, found in rates.items():
        yield Row(way, "images/s", found, "our own engine", part=f"{images:,} pictures of 16 px in {len(files)} shards")


@quick(rows=20_000)
def report(rows: int = 1_000_000) -> Iterator[Row]:
    """A report of so many predictions, of 14 benchmarks and 3 detectors, with intervals: the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, mib, which = measured("report", rows, Path(folder))
        page = (Path(folder) / "out/report.html").stat().st_size / 2**20
    for value, unit, note in ((seconds, "s", ""), (mib, "MiB", f"peak of {which}"), (page, "MiB of page", "")):
        yield Row("report", unit, [value], part=f"{rows:,} predictions", note=note)


@quick(sizes=(200, 2000), picture=str(HERE.parent / "outputs/bench/scaling.svg"))
def rows(
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    parts: tuple[str, ...] = KINDS,
    picture: str = str(HERE.parent / "docs/pictures/scaling.svg"),
    done: str = "[]",
) -> Iterator[Row]:
    """Each part at each size, exponents, and a picture of all.

    Args:
        sizes: Images.
        parts: Of `KINDS`: slots and tokens are of the retrieval; ranks are 1 to 4 processes of an evaluation.
        picture: Where to draw.
        done: Rows that are measured already, as JSON.
    """
    known = {(row["part"], row["name"], row["unit"]): row["median"] for row in json.loads(done)}
    for part in parts:
        points = {
            "slots": (1024, 2048, 4096, 8192, 16384), "tokens": (50, 100, 200, 400, 800), "ranks": (1, 2, 3, 4),
        }.get(part, (START, *sizes))  # fmt: skip
        for point in points if part != "index" else sizes:
            if (part, f"{point:,}", "s") not in known or (part, f"{point:,}", "MiB") not in known:
                size, ranks = (min(sizes[-1], 10_000), point) if part == "ranks" else (point, 1)
                with tempfile.TemporaryDirectory() as folder:
                    seconds, mib, which = measured(part, size, Path(folder), ranks)
                base, note = "", f"{size / seconds:,.0f} images/s" if part not in ("slots", "tokens") else ""
                bound: dict[str, Any] = {}
                if part == "ranks":
                    alone = known.get((part, "1", "s"), seconds)
                    base, bound = "1", {"possible": alone / min(point, cores()), "bound": "one process's, by the cores"}
                yield Row(f"{point:,}", "s", [seconds], base, part=part, note=note, **bound)
                yield Row(f"{point:,}", "MiB", [mib], base, part=part, note=f"peak of {which}")
                known |= {(part, f"{point:,}", "s"): seconds, (part, f"{point:,}", "MiB"): mib}
        for unit in ("s", "MiB"):
            found = exponent(known, part, unit)
            if part != "ranks" and found is not None:
                yield Row(f"exponent of {unit}", "power", [found], part=part, note="of the last two decades")
    draw(known, Path(picture))


Known = Mapping[tuple[str, str, str], float]
"""Values by part, name and unit."""


def curve(known: Known, part: str, unit: str) -> list[tuple[int, float]]:
    """Sizes and values, without those of the start."""
    rows = ((name, value) for (of, name, one), value in known.items() if (of, one) == (part, unit))
    found = ((int(name.replace(",", "")), value) for name, value in rows if not name.startswith("exponent"))
    return sorted(one for one in found if one[0] != START)


def exponent(known: Known, part: str, unit: str) -> float | None:
    """The slope in logarithms over the last two decades; None of a single size."""
    start = known.get((part, f"{START}", unit), 0.0) if unit == "s" else 0.0
    points = curve(known, part, unit)
    last = [(size, value - start) for size, value in points if size * 100 >= points[-1][0] and value > start]
    if len(last) < 2:
        return None
    sizes, values = zip(*last, strict=True)
    return statistics.linear_regression(np.log(sizes).tolist(), np.log(values).tolist()).slope


def draw(known: Known, path: Path) -> None:
    """Draw all curves: seconds and memory against images, seconds of the retrieval, images/s against processes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from mirror_pl.reports.charts import COLOURS

    panels = (
        ("Seconds, by images", "s", ("index", "eval", "report", "predict"), 1),
        ("Peak memory in MiB, by images", "MiB", ("index", "eval", "report", "predict"), 1),
        ("Retrieval of an image in ms", "s", ("slots", "tokens"), 1000),
        ("Seconds of an evaluation, by processes", "s", ("ranks",), 1),
    )
    figure = Figure(figsize=(10, 7.5), facecolor="white", layout="constrained")
    for axes, (title, unit, parts, scale) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
        for part in parts:
            if points := curve(known, part, unit):
                slope = exponent(known, part, unit)
                label = part if slope is None or part == "ranks" else f"{part}, power {slope:.2f}"
                x, y = zip(*points, strict=True)
                colour = COLOURS[KINDS.index(part)]
                axes.plot(x, [scale * value for value in y], "o-", color=colour, label=label)
        axes.grid(color="#e2e5e7")
        axes.tick_params(labelsize=11)
        if axes.lines:
            axes.legend(loc="upper left" if parts == ("ranks",) else "lower right", fontsize=11, frameon=False)
        if parts == ("ranks",):
            axes.set(ylim=(0, None), xticks=(1, 2, 3, 4))
        else:
            axes.set(xscale="log", yscale="log")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mirror_pl"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())
