"""Loading a detector: the plain path against ours, from the published .pth and from our folder; time and peak memory.

The plain path is what published code does: the backbone by from_pretrained, peft adapters, plain modules for bank and head,
torch.load, load_state_dict. Each load runs in a fresh process, after its imports, with its files in the file cache. Weights
that are mapped from a file cost nothing until they are used, so each load is measured a second time up to the sum of all
its tensors. Files with random weights are written to a temporary folder: 3.1 times the weights, 10.3 GB for H+.
Needs torch, transformers, peft and safetensors only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mirror_pl.detectors import BackboneConfig, DetectorConfig, MirrorDetector, load_detector
from mirror_pl.detectors.backbone import Backbone
from mirror_pl.detectors.checkpoint import read_detector, save_folder
from mirror_pl.detectors.detector_config import LoraConfig, MemoryBankConfig
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES, known_backbone
from paired import Row, copy_ceiling, fresh, quick, resident_bytes

RETURNED, USED = "until the load returns", "until every tensor is summed"
CHECKPOINT, BACKBONE, CONVERTED = "checkpoint-h-cur.pth", "backbone", "converted"
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


def measured(name: str, folder: Path) -> tuple[dict[str, float], float]:
    """Load once, in this process: what it took until the load returned, and until every tensor was summed; and that sum."""
    # Imports are not counted; transformers and peft put theirs off.
    import peft  # noqa: F401
    from transformers import AutoModel  # noqa: F401
    from transformers.models.dinov2 import modeling_dinov2  # noqa: F401
    from transformers.models.dinov3_vit import modeling_dinov3_vit  # noqa: F401

    with torch.device("meta"):  # and what is imported or set up at first use
        PlainDetector(Backbone(KNOWN_BACKBONES["tiny"]).model)
        MirrorDetector(DetectorConfig(KNOWN_BACKBONES["tiny"]))
    way = ways()[name]
    if way.device == "cuda":
        torch.ones(1, device="cuda").sum().item()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = resident_bytes("VmRSS"), time.perf_counter()

    def taken(until: str) -> dict[str, float]:
        return {
            f"s {until}": time.perf_counter() - start,
            f"bytes {until}": float(resident_bytes("VmHWM") - before),
        }

    detector = way.load(folder)
    if way.device == "cuda":
        torch.cuda.synchronize()
    found = taken(RETURNED)
    tensors = detector.state_dict().values()
    with torch.no_grad():
        total = sum(tensor.sum(dtype=torch.float32).item() for tensor in tensors)
    found |= taken(USED)
    held = sum(tensor.nbytes for tensor in tensors)
    return {key: value / held if key.startswith("bytes") else value for key, value in found.items()}, total


@quick(backbone="tiny")
def rows(backbone: str = "dinov3_hplus", folder: str = "", repeats: int = 5) -> Iterator[Row]:
    """Seconds, and bytes added to the peak of resident memory in times those of the detector's tensors.

    Args:
        backbone: One of `KNOWN_BACKBONES`.
        folder: Where files are written for the time of the measurement; the system's temporary folder if empty.
    """
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways()}
    sums = set()
    with tempfile.TemporaryDirectory(dir=folder or None) as temporary:
        # In a process of its own, so that its memory is given back.
        weights = fresh(write_files, Path(temporary), known_backbone(backbone))
        for _ in range(repeats):
            for name, way in ways().items():
                for file in way.files:
                    _read(Path(temporary) / file)
                taken, total = fresh(measured, name, Path(temporary))
                found[name].append(taken)
                sums |= {total} if name in _SAME_WEIGHTS else set()
    if len(sums) > 1:
        raise RuntimeError(f"the ways load different weights: their sums are {sums}")
    copied_s = 2 * weights / copy_ceiling(torch.device("cpu"))
    for key in found[_SAME_WEIGHTS[0]][0]:
        what, _, until = key.partition(" ")
        bound = {"possible": copied_s, "bound": "float32 weights copied in memory"} if key == f"s {USED}" else {}
        plain = ""
        for name, taken_of in found.items():  # each precision and device begins with the plain path
            plain = name if name.startswith("plain") else plain
            unit = "s" if what == "s" else "x tensors"
            yield Row(name, unit, [one[key] for one in taken_of], plain, part=f"{backbone}, {until}", **bound)


def _read(path: Path) -> None:
    """Bring a file, or the files of a folder, into the file cache."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as opened:
            while opened.read(2**24):
                pass
