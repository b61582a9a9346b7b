"""Write the tables of links and of hardware into the pages that show them: ``make tables``; ``--check`` only compares.

They are made from configs/weights, configs/benchmark and the sizes below, so that pages and READMEs say the same.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mirror_pl.benchmarks import benchmark_names, load_manifest
from mirror_pl.pinned_weights import published_weights

ROOT = Path(__file__).resolve().parents[1]
NOT_PUBLISHED = ("miniature", "folder")
_LINKS = (
    (re.compile(r"GitHub and Hugging Face ([\w.-]+/[\w.-]*\w)"), r"[GitHub](https://github.com/\1), [Hugging Face](https://huggingface.co/datasets/\1)"),
    (re.compile(r"(?:GitHub|repository) ([\w.-]+/[\w.-]*\w)"), r"[GitHub \1](https://github.com/\1)"),
    (re.compile(r"Hugging Face(?: mirror)? ([\w.-]+/[\w.-]*\w)"), r"[Hugging Face \1](https://huggingface.co/datasets/\1)"),
    (re.compile(r"ModelScope ([\w.-]+/[\w.-]*\w)"), r"[ModelScope \1](https://modelscope.cn/datasets/\1)"),
    (re.compile(r"Zenodo (\d+)"), r"[Zenodo \1](https://zenodo.org/records/\1)"),
    (re.compile(r"Google Drive (1[\w-]{20,})"), r"[Google Drive](https://drive.google.com/drive/folders/\1)"),
    (re.compile(r"(?<![(\w])grip\.unina\.it"), "[grip.unina.it](https://www.grip.unina.it)"),
)  # fmt: skip


@dataclass(frozen=True)
class Transformer:
    """A vision transformer's size, and what it sees; operations and weights follow from these."""

    detector: str
    backbone: str
    width: int
    depth: int
    mlp: int
    patch: int
    side: int
    crops: int = 1
    extra: int = 5
    gated: bool = False

    @property
    def weights(self) -> float:
        """Of the layers and the patch embedding; norms, positions and heads are less than a hundredth."""
        mlp = (3 if self.gated else 2) * self.width * self.mlp
        return self.depth * (4 * self.width**2 + mlp) + 3 * self.patch**2 * self.width

    @property
    def gflop(self) -> float:
        """Of an image: two for each weight and token, and the products of queries with keys and of weights with values."""
        tokens = (self.side // self.patch) ** 2 + self.extra
        attention = 4 * self.depth * tokens**2 * self.width
        return self.crops * (2 * self.weights * tokens + attention) / 1e9


SIZES = (
    Transformer("mirror_hplus", "DINOv3 ViT-H+/16", 1280, 32, 5120, 16, 224, gated=True),
    Transformer("mirror, DINOv3-L", "DINOv3 ViT-L/16", 1024, 24, 4096, 16, 224),
    Transformer("mirror, DINOv3-B", "DINOv3 ViT-B/16", 768, 12, 3072, 16, 224),
    Transformer("mirror, DINOv2-L", "DINOv2 ViT-L/14", 1024, 24, 4096, 14, 224, extra=1),
    Transformer("univfd, effort, rine", "CLIP ViT-L/14", 1024, 24, 4096, 14, 224, extra=1),
    Transformer("dda", "DINOv2 ViT-L/14", 1024, 24, 4096, 14, 336, extra=1),
    Transformer("bfree", "DINOv2 ViT-B/14", 768, 12, 3072, 14, 504, crops=5),
    Transformer("commfor 384", "ViT-S/16", 384, 12, 1536, 16, 384, extra=1),
    Transformer("simplicity dinov2lin", "DINOv2 ViT-L/14", 1024, 24, 4096, 14, 224, extra=1),
    Transformer("simplicity dinov3lin", "DINOv3 ViT-7B/16", 4096, 40, 8192, 16, 224, gated=True),
    Transformer("simplicity metacliplin", "MetaCLIP ViT-H/14", 1280, 32, 5120, 14, 224, extra=1),
)
CPU_GFLOPS = 2.67 * 35.9
"""What the detector with DINOv3-B did on two cores, docs/performance.md: images per second times operations per image."""
GPU_GFLOPS = 275 * Transformer("", "", 1280, 32, 5120, 16, 256, gated=True).gflop
"""What others report of timm's DINOv3 ViT-H+ at 256 px on an RTX 4090, compiled, mixed precision: 275 images/s."""


def short(number: float) -> str:
    """Return a number with two digits that count, and no exponent."""
    if number >= 99.5:
        return f"{float(f'{number:.2g}'):,.0f}"
    return f"{number:.2g}"


def duration(seconds: float) -> str:
    """Return a time in the unit that people would say it in."""
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= size or size == 1)
    return f"{short(seconds / size)} {unit}"


def linked(text: str) -> str:
    """Return a source with its places as links."""
    for pattern, link in _LINKS:
        text = pattern.sub(link, text)
    return text


def weights_table() -> list[str]:
    """Return a row for each published file."""
    rows = ["| for | file | what | where | licence |", "|---|---|---|---|---|"]
    for one in published_weights().values():
        page, _, note = one.page.partition(" ")
        where = f"[page]({page}) {note}".strip() if page.startswith("http") else one.page
        if one.hub is not None:
            where += f"; `{one.hub.partition('@')[0]}`"
        if one.drive is not None:
            where += f"; [Google Drive](https://drive.google.com/drive/folders/{one.drive})"
        rows.append(f"| `{one.detector}` | `{one.file}` | {one.title} | {where} | {one.licence} |")
    return rows


def benchmarks_table() -> list[str]:
    """Return a row for each published benchmark."""
    rows = ["| benchmark | what | where | licence |", "|---|---|---|---|"]
    for name in benchmark_names():
        if name in NOT_PUBLISHED:
            continue
        one = load_manifest(name)
        rows.append(f"| `{name}` | {one.title} | {linked(one.source)} | {one.licence} |")
    return rows


def hardware_table() -> list[str]:
    """Return a row for each detector: operations, memory and speed, all but the marked one by formula."""
    head = "| detector | backbone | GFLOP per image | weights, float32 | images/s, 2 CPU cores | images/s, RTX 4090 |"
    rows = [head, "|---|---|---|---|---|---|"]
    for one in SIZES:
        measured = " (measured)" if one.detector == "mirror, DINOv3-B" else ""
        rate, memory = CPU_GFLOPS / one.gflop, 4e-9 * one.weights
        rows.append(
            f"| {one.detector} | {one.backbone} | {short(one.gflop)} | {memory:.2g} GB | {rate:.2g}{measured} | "
            f"{short(GPU_GFLOPS / one.gflop)} |"
        )
    return rows


def time_table() -> list[str]:
    """Return a row for each benchmark whose number of images is known, with the time for H+ by formula."""
    rows = ["| benchmark | images, at most | H+, 2 CPU cores | H+, RTX 4090 |", "|---|---|---|---|"]
    hplus = SIZES[0].gflop
    for name in benchmark_names():
        manifest = load_manifest(name)
        counts = [manifest.expected.get(subset, manifest.expected.get("*", {})) for subset in manifest.subsets]
        images = sum(sum(count.values()) for count in counts)
        if images and name not in NOT_PUBLISHED and all(len(count) for count in counts):
            cpu, gpu = (duration(images * hplus / rate) for rate in (CPU_GFLOPS, GPU_GFLOPS))
            rows.append(f"| `{name}` | {images:,} | {cpu} | {gpu} |")
    return rows


TABLES = {
    "weights": weights_table,
    "benchmarks": benchmarks_table,
    "hardware": hardware_table,
    "time": time_table,
}
PAGES = ("docs/weights.md", "docs/data.md", "docs/hardware.md", "checkpoints/README.md", "data/README.md")


def filled(text: str) -> str:
    """Return a page with its tables made anew, between ``<!-- table: NAME -->`` and ``<!-- end -->``."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n\n" + "\n".join(TABLES[found[1]]()) + "\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    """Write the pages, or say which differ."""
    stale = []
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        if filled(before) != before:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(filled(before), encoding="utf-8")
    if stale and "--check" in sys.argv:
        raise SystemExit(f"stale: {', '.join(stale)}; make tables")


if __name__ == "__main__":
    main()
