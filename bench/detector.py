"""Backbone alone, whole detector, and whole evaluation from files to scores.

Random weights, LoRA merged. The evaluation reads JPEG and PNG files made on the spot through the data module, its workers
and Lightning's trainer; once from files, once from a warm cache of crops. Needs torch, transformers, lightning, torchmetrics
and pillow, but no hydra.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from decode import decoding_bound, only_decoded, plain_pillow, smooth_noise
from mirror_pl.detectors import DetectorConfig, MirrorDetector
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.detectors.scoring import computing_in, precision_of
from paired import Row, best_device, matrix_bound, quick, timed
from retrieval import operations as bank_operations

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


def ways_of(
    detector: MirrorDetector, batch: int, mixed: bool, device: torch.device, batches: int = 1
) -> dict[str, Callable[[], object]]:
    """The backbone alone and the detector, on pixels that are on the device already; `mixed` is bfloat16 autocast."""
    side = detector.spec.crop_px
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)

    def scored(whole: bool) -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            for _ in range(batches):
                detector(pixels) if whole else detector.features(pixels.float() / 255)

    return {"backbone alone": partial(scored, False), "detector": partial(scored, True)}


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


def make_pictures(folder: Path, images: int) -> list[Path]:
    """JPEG and PNG files of 768 x 640 in the published tree."""
    rng = np.random.default_rng(0)
    pictures = [smooth_noise(rng, 768, 640) for _ in range(4)]
    paths = [folder / f"x/{'1_fake' if i % 2 else '0_real'}/{i}.{'png' if i % 4 == 1 else 'jpg'}" for i in range(images)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[i % 4].save(path, quality=90)
    return paths


def evaluate(
    detector: MirrorDetector, folder: Path, cache: Path | None = None, workers: int | None = None, **of_trainer: object
) -> list[float]:
    """Evaluate what `make_pictures` made, loader and trainer started anew; return the logits."""
    import lightning as L

    from mirror_pl.benchmarks import Layout, Manifest
    from mirror_pl.callbacks import ScoreKeeper
    from mirror_pl.data import BenchmarkDataModule
    from mirror_pl.modules import DetectorModule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    manifest = Manifest(
        name="x", title="x", group="other", published_key="x", source="-", licence="-", how_to_get="-", citation="-",
        layouts={"published": Layout(("x",), {"ALL": (".",)})},
    )  # fmt: skip
    device, keeper = next(detector.parameters()).device, ScoreKeeper()
    given = {"accelerator": "gpu" if best_device().type == "cuda" else "cpu", "devices": 1, **of_trainer}
    trainer = L.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[keeper],
        default_root_dir=folder, **given,
    )  # fmt: skip
    data = BenchmarkDataModule(manifest, folder, cache_dir=cache, num_workers=workers)
    trainer.test(DetectorModule(detector), data, verbose=False)
    detector.to(device)  # Lightning takes it back to the host
    return keeper.predictions.logits.tolist()


@quick(backbone="tiny", images=16, batch=8)
def rows(backbone: str = "", batch: int = 0, precision: str = "", images: int = 0, repeats: int = 5) -> Iterator[Row]:
    """Images/s; without settings H+, batch 128, bfloat16 and 4,096 files on a GPU, and B, 16, float32 and 64 on a CPU.

    Args:
        backbone: One of `KNOWN_BACKBONES`.
        batch: Images.
        precision: One of `PRECISIONS`.
        images: Files of the evaluation, 768 x 640, with batch size auto.
    """
    device = best_device()
    sizes = ("dinov3_hplus", 128, "bfloat16", 4096) if device.type == "cuda" else ("dinov3_b", 16, "float32", 64)
    backbone, batch, precision, images = backbone or sizes[0], batch or sizes[1], precision or sizes[2], images or sizes[3]
    detector = random_detector(backbone, device)
    part = f"{backbone}, random weights, {precision}, batch {batch}, evaluation of {images} files"
    bound = matrix_bound(device, getattr(torch, precision), operations(detector))
    given = {"base": "backbone alone", "part": part}
    ways = ways_of(detector, batch, precision == "bfloat16", device, images // batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        files = make_pictures(folder, images)
        time.sleep(2.5)  # a file that has just changed is not cached
        run = partial(evaluate, detector, folder, precision=PRECISIONS[precision])
        ways |= {"evaluation, from files": run, "evaluation, from cached crops": partial(run, cache=Path(name) / "cache")}
        slower = min(bound, decoding_bound(files), key=lambda one: one["possible"])
        for row in timed(ways, repeats, device, "images/s", images, **given, **bound):
            if row.name.endswith("files"):
                row.possible, row.bound = slower.values()
            yield row
    found = difference(detector, 32, device)
    yield Row("mean |p_fake(bfloat16) - p_fake(float32)|", "of 32", [found], part=part)


@quick(backbone="tiny", batch=4)
def precisions(backbone: str = "dinov3_b", batch: int = 16, repeats: int = 5) -> Iterator[Row]:
    """Images/s of the detector in each precision, in 8 bits where torchao is, and compiled, with what each moves.

    Notes say the largest difference of a logit to float32, of smooth random pictures; and of the compiled detector, how many
    images pay for its first batch.
    """
    device = best_device()
    exact = random_detector(backbone, device)
    side = exact.spec.crop_px
    small = torch.randint(0, 256, (batch, 3, side // 16, side // 16), device=device).float()
    pixels = nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)

    def scored(detector: MirrorDetector, precision: str) -> torch.Tensor:
        with computing_in(precision, detector):
            return detector(pixels).logit.float()

    ways = {"32-true": partial(scored, exact, "32-true")}
    for name in ("bf16-mixed", "bf16-true"):
        changed = copy.deepcopy(exact).to(precision_of(name).weights)
        ways[name] = partial(scored, changed, name)
    if find_spec("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        changed = copy.deepcopy(exact)
        linear = {part for name, part in changed.backbone.named_modules() if isinstance(part, nn.Linear)}
        quantize_(changed.backbone, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda part, _: part in linear)
        ways["int8"] = partial(scored, changed, "32-true")
    compiled = copy.deepcopy(exact)
    compiled.compile_backbone()
    ways["compiled"] = partial(scored, compiled, "32-true")
    began = time.perf_counter()
    ways["compiled"]()
    first_s, expected = time.perf_counter() - began, ways["32-true"]()
    moved = {name: float((way() - expected).abs().max()) for name, way in ways.items()}
    found = list(timed(ways, repeats, device, "images/s", batch, base="32-true", part=f"{backbone}, batch {batch}"))
    plain, made = (float(np.median(row.values)) for row in (found[0], found[-1]))
    saved_s = 1 / plain - 1 / made
    pays = f"pays after {(first_s - batch / made) / saved_s:,.0f} images" if saved_s > 0 else "never pays here"
    for row in found:
        row.note = f"largest |logit difference| {moved[row.name]:.2g}" if row.base != row.name else ""
    found[-1].note += f"; first batch {first_s:.1f} s, {pays}"
    yield from found


def predict(repeats: int = 50) -> Iterator[Row]:
    """One picture of 2 megapixels, from a file to a prediction; one process, warm, on a CPU, milliseconds taken in turn.

    As JPEG and as PNG, which the recipe compresses as JPEG and decodes again. Time outside the model is that of the whole
    call less that of the (tiny) detector inside it; plain Pillow decodes, resizes, crops and aligns, to the same pixels.
    """
    from mirror_pl.images.pictures import prepare
    from mirror_pl.prediction import Item, row_of, score
    from mirror_pl.prediction.formats import as_line

    detector = random_detector("tiny", torch.device("cpu"))
    inside = began = 0.0

    def before(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: object) -> None:
        nonlocal inside
        inside = time.perf_counter() - began

    detector.register_forward_pre_hook(before)
    detector.register_forward_hook(after)
    with tempfile.TemporaryDirectory() as name:
        for suffix, how in ((".jpg", {"quality": 90}), (".png", {})):
            path = Path(name) / f"picture{suffix}"
            smooth_noise(np.random.default_rng(0), 1632, 1224).save(path, **how)
            pixels = prepare(path, detector.spec).pixels
            assert pixels is not None
            assert np.array_equal(pixels[0], plain_pillow(path))
            ms: dict[str, list[float]] = {"only decoded": [], "plain Pillow": [], "outside the model": [], "whole": []}
            for round_ in range(repeats + 5):
                times = [time.perf_counter()]
                only_decoded(path)
                times.append(time.perf_counter())
                plain_pillow(path)
                times.append(time.perf_counter())
                ((item, prediction),) = score([Item.of_file(str(path))], detector)
                as_line(row_of(item, prediction))
                times.append(time.perf_counter())
                decoded, plain, whole = (after - before for before, after in pairwise(times))
                if round_ >= 5:
                    for values, value in zip(ms.values(), (decoded, plain, whole - inside, whole), strict=True):
                        values.append(1e3 * value)
            least = float(np.median(ms["only decoded"]))
            part = f"{suffix}, 1632 x 1224"
            for key, values in ms.items():
                yield Row(key, "ms", values, "plain Pillow", least, "plain Pillow that only decodes", part)
