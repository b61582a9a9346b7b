"""Backbone alone, whole detector, and whole evaluation from files to scores; images/s and share of the machine's ceiling.

Random weights, LoRA merged. The evaluation reads JPEG and PNG files made on the spot through the data module, its workers
and Lightning's trainer; once from files, once from a warm cache of crops. Needs torch, transformers, lightning, torchmetrics
and pillow, but no hydra.

    python bench/detector.py [--backbone dinov3_hplus] [--batch 128] [--precision bfloat16] [--repeats 5]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from decode import smooth_noise
from paired import best_device, copy_ceiling, describe, matrix_ceiling, seconds_of
from retrieval import operations as bank_operations

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs without being installed

from mirror_pl.detectors import DetectorConfig, MirrorDetector
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES, known_backbone

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def random_detector(backbone: str, device: torch.device) -> MirrorDetector:
    """A detector of a known size; orthogonal initialisation of the bank would take longer than the measurement."""
    torch.manual_seed(0)
    with torch.device("meta"):
        detector = MirrorDetector(DetectorConfig(known_backbone(backbone), lora=None))
    normalise = type(detector.normalise)(detector.config.preprocess.mean, detector.config.preprocess.std)
    detector.to_empty(device=device)
    detector.normalise = normalise.to(device)
    for name, parameter in detector.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02 if name.startswith("backbone") else parameter.shape[-1] ** -0.5)
        else:
            nn.init.constant_(
                parameter, 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1")) else 0.0
            )
    detector.backbone.restore_constants()
    return detector.to(device).requires_grad_(False).eval()


def operations(detector: MirrorDetector) -> int:
    """Operations an image: those of the backbone, as torch counts them, and those of the bank."""
    device = next(detector.parameters()).device
    side = detector.spec.crop_px
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        tokens = detector.features(torch.rand(1, 3, side, side, device=device)).tokens
    return counter.get_total_flops() + bank_operations(*tokens.shape[1:])


def measure(detector: MirrorDetector, batch: int, precision: str, repeats: int, device: torch.device) -> dict[str, float]:
    """Median images/s of the backbone alone and of the detector, on pixels that are on the device already."""
    side = detector.spec.crop_px
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def backbone() -> object:
        with torch.inference_mode(), autocast():
            return detector.features(pixels.float() / 255)

    def whole() -> object:
        with torch.inference_mode(), autocast():
            return detector(pixels).p_fake

    return {
        name: batch / value
        for name, value in seconds_of({"backbone alone": backbone, "detector": whole}, repeats, device, warm_up=2).items()
    }


def difference(detector: MirrorDetector, images: int, device: torch.device) -> float:
    """Mean absolute difference of p_fake between bfloat16 autocast and float32."""
    side = detector.spec.crop_px
    total = 0.0
    for _ in range(images):
        pixels = torch.randint(0, 256, (1, 3, side // 16, side // 16), device=device).float()
        pixels = nn.functional.interpolate(pixels, (side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)
        with torch.inference_mode():
            exact = detector(pixels).p_fake
            with torch.autocast(device.type, torch.bfloat16):
                total += float((detector(pixels).p_fake - exact).abs())
    return total / images


def measure_evaluation(
    detector: MirrorDetector, images: int, precision: str, repeats: int, device: torch.device
) -> dict[str, float]:
    """Median images/s of an evaluation from files, and from a warm cache of crops; loader and trainer started each time."""
    import lightning as L

    from mirror_pl.benchmarks import Layout, Manifest
    from mirror_pl.data import BenchmarkDataModule
    from mirror_pl.modules import DetectorModule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    manifest = Manifest(
        name="x", title="x", group="other", published_key="x", source="-", licence="-", how_to_get="-", citation="-",
        layouts={"published": Layout(("x",), {"ALL": (".",)})},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rng = np.random.default_rng(0)
        pictures = [smooth_noise(rng, 768, 640) for _ in range(4)]
        for i in range(images):
            folder = root / "data" / "x" / ("1_fake" if i % 2 else "0_real")
            folder.mkdir(parents=True, exist_ok=True)
            pictures[i % 4].save(folder / f"{i}.{'png' if i % 4 == 1 else 'jpg'}", quality=90)
        time.sleep(2.5)  # a file that has just changed is not cached

        def run(cache: Path | None) -> None:
            data = BenchmarkDataModule(manifest, root / "data", cache_dir=cache)
            trainer = L.Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision=PRECISIONS[precision],
                logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                default_root_dir=name,
            )  # fmt: skip
            trainer.test(DetectorModule(detector), data, verbose=False)
            detector.to(device)  # Lightning takes it back to the host

        ways = {"evaluation, from files": lambda: run(None), "evaluation, from cached crops": lambda: run(root / "cache")}
        return {way: images / value for way, value in seconds_of(ways, repeats, device).items()}


def report(backbone: str, batch: int, precision: str, images: int, repeats: int, device: torch.device) -> None:
    """Measure and print."""
    detector = random_detector(backbone, device)
    ceiling = matrix_ceiling(device, getattr(torch, precision))
    work = operations(detector)
    rates = measure(detector, batch, precision, repeats, device)
    rates |= measure_evaluation(detector, images, precision, repeats, device)
    print(f"{backbone}, random weights, {precision}, batch {batch}; medians of {repeats}")
    print(f"share: of a {precision} matrix product's {ceiling / 1e12:.2f} TFLOP/s, counting {work / 1e9:.1f} GFLOP an image")
    print(f"evaluation: {images} files of 768 x 640, batch size auto; starting loader and trainer included\n")
    print(f"{'':<34}{'images/s':>10}{'of backbone':>13}{'share':>8}")
    for name, rate in rates.items():
        print(f"{name:<34}{rate:>10.2f}{rate / rates['backbone alone']:>13.0%}{rate * work / ceiling:>8.0%}")
    print(f"\nmean |p_fake(bfloat16) - p_fake(float32)| over 32 images: {difference(detector, 32, device):.1e}")


def main() -> None:
    device = best_device()
    on_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=KNOWN_BACKBONES, default="dinov3_hplus" if on_gpu else "dinov3_b")
    parser.add_argument("--batch", type=int, default=128 if on_gpu else 16)
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--images", type=int, default=4096 if on_gpu else 64, help="files of the evaluation")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{describe(device)}; copy {copy_ceiling(device) / 1e9:.0f} GB/s")
    report(options.backbone, options.batch, options.precision, options.images, options.repeats, device)


if __name__ == "__main__":
    main()
