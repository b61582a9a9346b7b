"""Loading a detector: the plain path against ours, from the published .pth and from our folder; time and peak memory.

The plain path is what published code does: the backbone by from_pretrained, peft adapters, plain modules for bank and head,
torch.load, load_state_dict. Each load runs in a fresh process, after its imports, with its files in the file cache. Weights
that are mapped from a file cost nothing until they are used, so each load is measured a second time up to the sum of all
its tensors. Files with random weights are written to a temporary folder: 3.1 times the weights, 10.3 GB for H+.
Needs torch, transformers, peft and safetensors only.

    python bench/loading.py [--backbone dinov3_hplus] [--repeats 5] [--folder TEMPORARY]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paired import resident_bytes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.detectors import BackboneConfig, DetectorConfig, MirrorDetector, load_detector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint import read_detector, save_folder
from mirror_pl.detectors.detector_config import LoraConfig, MemoryBankConfig
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES, known_backbone

CHECKPOINT, BACKBONE, CONVERTED = "checkpoint-h-cur.pth", "backbone", "converted"
MIB = 2**20
_SAME_WEIGHTS = ("plain, float32", ".pth, float32", "safetensors, float32")


class PlainDetector(nn.Module):
    """The published detector's modules under their published names, without a forward pass."""

    def __init__(self, dino: Any) -> None:
        super().__init__()
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        width, lora = dino.config.hidden_size, LoraConfig()
        self.norm = nn.Module()
        self.norm.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.norm.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.backbone = nn.Module()
        self.backbone.dino = dino
        layers = next(module for module in dino.modules() if isinstance(module, nn.ModuleList))
        targets = ["q_proj", "k_proj", "v_proj", "query", "key", "value"]
        for i, layer in enumerate(layers):
            layers[i] = get_peft_model(layer, PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets))
        self.memory_bank = nn.Module()
        self.memory_bank.memory = nn.Parameter(torch.zeros(MemoryBankConfig().slots, width))
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self.memory_bank, name, nn.Linear(width, width, bias=False))
        self.memory_bank.out_proj = nn.Linear(width, width)
        self.detector = nn.Module()
        self.detector.perplexity_mlp = nn.Sequential(nn.Linear(2, 64))
        self.detector.residual_mlp = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 256))
        self.detector.head = nn.Sequential(nn.Linear(320 + width, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 2))


def load_plainly(folder: Path) -> nn.Module:
    """Load as published code does: every weight of the backbone is read twice."""
    from transformers import AutoModel

    detector = PlainDetector(AutoModel.from_pretrained(folder / BACKBONE))
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    detector.load_state_dict(content["model"])
    return detector.eval()


@dataclass(frozen=True)
class Way:
    """A way to load: what it reads below the temporary folder, and how."""

    files: tuple[str, ...]
    load: Callable[[Path], nn.Module]
    device: str = "cpu"


def ways() -> dict[str, Way]:
    """The ways this machine can measure; the first of each precision and device is what the others are compared with."""
    plain_files = (BACKBONE, CHECKPOINT)
    half = torch.bfloat16
    found = {
        "plain, float32": Way(plain_files, load_plainly),
        ".pth, float32": Way((CHECKPOINT,), lambda folder: load_detector(folder / CHECKPOINT, merge=False)),
        ".pth, LoRA merged, float32": Way((CHECKPOINT,), lambda folder: load_detector(folder / CHECKPOINT)),
        "safetensors, float32": Way((CONVERTED,), lambda folder: load_detector(folder / CONVERTED, merge=False)),
        "safetensors, LoRA merged, float32": Way((CONVERTED,), lambda folder: load_detector(folder / CONVERTED)),
        "plain, bfloat16": Way(plain_files, lambda folder: load_plainly(folder).to(half)),
        ".pth, LoRA merged, bfloat16": Way((CHECKPOINT,), lambda folder: load_detector(folder / CHECKPOINT, dtype=half)),
        "safetensors, LoRA merged, bfloat16": Way(
            (CONVERTED,), lambda folder: load_detector(folder / CONVERTED, dtype=half)
        ),
    }
    if torch.cuda.is_available():
        found |= {
            "plain, cuda": Way(plain_files, lambda folder: load_plainly(folder).to("cuda"), "cuda"),
            ".pth, LoRA merged, cuda": Way(
                (CHECKPOINT,), lambda folder: load_detector(folder / CHECKPOINT, device="cuda"), "cuda"
            ),
            "safetensors, LoRA merged, cuda": Way(
                (CONVERTED,), lambda folder: load_detector(folder / CONVERTED, device="cuda"), "cuda"
            ),
        }
    return found


@torch.no_grad()
def write_files(folder: Path, config: BackboneConfig) -> int:
    """Write the backbone's folder, a published file and our folder with the same random weights; return their bytes."""
    with torch.device("meta"):
        dino: Any = Backbone(config).model
    dino = _filled(dino)
    dino.save_pretrained(folder / BACKBONE)
    of_backbone = iter([tensor for _, tensor in dino.state_dict().items()])
    with torch.device("meta"):
        skeleton = PlainDetector(Backbone(config).model)
    # The adapters stand beside the backbone's weights, whose order is the same with and without them.
    tensors = {
        name: next(of_backbone)
        if name.startswith("backbone.") and ".lora_" not in name
        else torch.randn(tensor.shape).mul_(0.02)
        for name, tensor in skeleton.state_dict().items()
    }
    tensors["norm.mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    tensors["norm.std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    content = {"model": tensors, "optimizer": {}, "epoch": 4, "scaler": {}, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, folder / CHECKPOINT)
    save_folder(folder / CONVERTED, *read_detector(folder / CHECKPOINT, backbone=config))
    return sum(tensor.nbytes for tensor in tensors.values())


def _filled(module: nn.Module) -> nn.Module:
    module = module.to_empty(device="cpu")
    for tensor in module.state_dict().values():
        tensor.normal_(std=0.02)
    return module


def measure_here(way: Way, folder: Path) -> dict[str, float]:
    """Load once, in this process: seconds and bytes added to the peak, of the load, and up to the use of every tensor."""
    # Imports are not counted; transformers and peft put theirs off.
    import peft  # noqa: F401
    from transformers import AutoModel  # noqa: F401
    from transformers.models.dinov2 import modeling_dinov2  # noqa: F401
    from transformers.models.dinov3_vit import modeling_dinov3_vit  # noqa: F401

    with torch.device("meta"):  # and what is imported or set up at first use
        PlainDetector(Backbone(KNOWN_BACKBONES["tiny"]).model)
        MirrorDetector(DetectorConfig(KNOWN_BACKBONES["tiny"]))
    if way.device == "cuda":
        torch.ones(1, device="cuda").sum().item()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes("VmRSS")
    start = time.perf_counter()
    detector = way.load(folder)
    if way.device == "cuda":
        torch.cuda.synchronize()
    result = {"load_s": time.perf_counter() - start, "load_bytes": float(resident_bytes("VmHWM") - before)}
    checksum = _touch(detector)
    result |= {"used_s": time.perf_counter() - start, "used_bytes": float(resident_bytes("VmHWM") - before)}
    result["held_bytes"] = float(sum(tensor.nbytes for tensor in detector.state_dict().values()))
    return result | {"checksum": checksum}


@torch.no_grad()
def _touch(detector: nn.Module) -> float:
    """Sum all tensors of a detector, so that none is left on disk; adapters and weights alike."""
    tensors: Iterable[Tensor] = detector.state_dict().values()
    return float(sum(tensor.sum(dtype=torch.float32).item() for tensor in tensors))


def measure(
    backbone: str = "dinov3_hplus", repeats: int = 5, folder: Path | None = None, only: Iterable[str] | None = None
) -> tuple[int, dict[str, dict[str, float]]]:
    """Measure every way, taken in turn, each time in a fresh process.

    Args:
        backbone: A known name.
        repeats: Rounds; medians over them are returned.
        folder: Where the files are written for the time of the measurement; the system's temporary folder if not given.
        only: Names of the ways to measure; all that this machine can, if not given.

    Returns:
        The bytes of the weights, and for each way the medians of ``load_s``, ``load_bytes`` (of the load alone) and
        ``used_s``, ``used_bytes`` (up to the use of every tensor), and ``held_bytes``, of the detector's tensors. Bytes are
        resident memory added to the peak.

    Raises:
        RuntimeError: If two ways that should give the same weights do not.
    """
    names = list(ways() if only is None else only)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        weights = _in_child("write", temporary, backbone)["bytes"]  # elsewhere, so that its memory is given back
        for round_ in range(repeats):
            print(f"round {round_ + 1} of {repeats}", file=sys.stderr)
            for name in names:
                for file in ways()[name].files:
                    _read(Path(temporary) / file)
                rounds[name].append(_in_child("load", temporary, name))
    unmerged = {row["checksum"] for name in names if name in _SAME_WEIGHTS for row in rounds[name]}
    if len(unmerged) > 1:
        raise RuntimeError(f"the ways load different weights: their sums are {unmerged}")
    keys = ("load_s", "load_bytes", "used_s", "used_bytes", "held_bytes")
    medians = {name: {key: statistics.median(row[key] for row in rows) for key in keys} for name, rows in rounds.items()}
    return int(weights), medians


def _read(path: Path) -> None:
    """Bring a file, or the files of a folder, into the file cache."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as opened:
            while opened.read(16 * MIB):
                pass


def _in_child(task: str, folder: str, what: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", task, folder, what],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"},
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=KNOWN_BACKBONES, default="dinov3_hplus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write the files; they are deleted afterwards")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task, folder, what = options.child
        if task == "write":
            print(json.dumps({"bytes": write_files(Path(folder), known_backbone(what))}))
        else:
            print(json.dumps(measure_here(ways()[what], Path(folder))))
        return

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    weights, medians = measure(options.backbone, options.repeats, options.folder)
    print(f"{options.backbone}, {weights:,} bytes of float32 weights; medians of {options.repeats}, warm file cache")
    print("after imports; used: until every tensor was summed; bytes: what the peak grew by, in times the tensors\n")
    print(f"{'':<36}{'load s':>9}{'ratio':>8}{'used s':>9}{'ratio':>8}{'load bytes':>12}{'used bytes':>12}")
    plain: dict[str, float] = {}
    for name, row in medians.items():  # each precision and device begins with the plain path
        plain = row if name.startswith("plain") else plain
        seconds = "".join(f"{row[key]:>9.3f}{row[key] / plain[key]:>8.3f}" for key in ("load_s", "used_s"))
        memory = "".join(f"{row[key] / row['held_bytes']:>12.2f}" for key in ("load_bytes", "used_bytes"))
        print(f"{name:<36}{seconds}{memory}")


if __name__ == "__main__":
    main()
