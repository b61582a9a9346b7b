"""Other published detectors: B-Free batched against one image at a time, DDA with its adapters merged against kept apart.

Random weights and pictures, pixels on the device already, the same work on both sides: before anything is timed, all ways
must give the same logits. "As published" takes one image after the other, makes patches of the whole of it, and scores the
five windows of that map. On a CPU the backbones are smaller than the published ones; the table says how small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from decode import smooth_noise
from mirror_pl.detectors.baseline import Baseline, VitSize
from mirror_pl.detectors.bfree import PATCH_PX, VIT_B, WINDOWS, BfreeDetector
from mirror_pl.detectors.dda import LORA, VIT_L, DdaDetector
from mirror_pl.images.pictures import prepare
from paired import Row, best_device, matrix_bound, quick, timed

SIZES = [(512, 512), (1024, 768), (256, 256), (768, 1024)]
"""Width and height of the pictures, in turn: small ones have five equal windows, as those of many generators do."""
REDUCED = VitSize(width=384, depth=4, heads=6, mlp_width=1536)
TOLERANCE = 1e-3
"""On the logit, in float32 with random weights."""


def randomise(detector: Baseline, device: torch.device) -> Baseline:
    torch.manual_seed(0)
    for name, parameter in detector.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2 if "lora_" in name or name.startswith("head") else 0.02)
        elif name.endswith("lambda1"):
            nn.init.constant_(parameter, 0.5)
    return detector.requires_grad_(False).eval().to(device)


def published_score(detector: BfreeDetector, image: Tensor) -> Tensor:
    """The five logits of a normalised image ``(1, 3, H, W)``, by windows of its map of patches."""
    model = detector.backbone.model
    embeddings = model.embeddings
    tokens = F.conv2d(
        image, embeddings.patch_embeddings.projection.weight, embeddings.patch_embeddings.projection.bias, stride=PATCH_PX
    )
    rows, columns = tokens.shape[2:]
    if min(rows, columns) < 36:
        tokens = tokens.repeat(1, 1, -(-36 // rows), -(-36 // columns))[:, :, :36, :36]
        rows = columns = 36
    top, left, bottom, right = (rows - 36) // 2, (columns - 36) // 2, rows - 36, columns - 36
    origins = ((top, left), (0, 0), (bottom, 0), (bottom, right), (0, right))
    windows = torch.cat([tokens[:, :, y : y + 36, x : x + 36] for y, x in origins]).flatten(2).transpose(1, 2)
    place = embeddings.position_embeddings
    cls = (embeddings.cls_token + place[:, :1]).expand(5, -1, -1)
    hidden = torch.cat([cls, embeddings.register_tokens.expand(5, -1, -1), windows + place[:, 1:]], dim=1)
    for layer in model.encoder.layer:
        found = layer(hidden)
        hidden = found if isinstance(found, Tensor) else found[0]  # a tuple under transformers 4.57
    return detector.head(model.layernorm(hidden[:, 0])).squeeze(1)


def bfree_ways(
    detector: BfreeDetector, images: int, batch: int, device: torch.device
) -> tuple[dict[str, Callable[[], Tensor]], int]:
    """Ways to score pictures, each returning their logits; and how many windows are distinct."""
    rng = np.random.default_rng(0)
    pictures = [np.array(smooth_noise(rng, *SIZES[i % len(SIZES)])) for i in range(images)]
    whole = [torch.from_numpy(picture).permute(2, 0, 1)[None].to(device) for picture in pictures]
    prepared = [prepare(picture, detector.spec, WINDOWS.crops).pixels for picture in pictures]
    cut = np.concatenate([pixels for pixels in prepared if pixels is not None])
    windows = torch.from_numpy(cut).permute(0, 3, 1, 2).to(device)

    def published() -> Tensor:
        with torch.inference_mode():
            found = [published_score(detector, detector.normalise(image.float() / 255)) for image in whole]
            return torch.stack(found).mean(dim=1)

    def batches(size: int) -> Callable[[], Tensor]:
        def way() -> Tensor:
            with torch.inference_mode():
                logits = torch.cat([detector(part).logit for part in windows.split(size)])
                return WINDOWS(logits.view(images, -1))[0]

        return way

    ways = {
        "one at a time, as published": published,
        "one at a time": batches(WINDOWS.count),
        f"batches of {batch} windows": batches(batch),
    }
    return ways, len(windows.flatten(1).unique(dim=0))


def dda_ways(size: VitSize, images: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """The same weights with adapters apart and merged; each way returns logits of the same random crops."""
    apart, merged = DdaDetector(size), DdaDetector(size)
    apart.adapt(LORA)
    randomise(apart, device)
    with torch.no_grad():
        for module in apart.backbone.modules():
            if hasattr(module, "get_delta_weight"):  # an adapted layer of peft
                module.merge()
        tensors = {name.replace(".base_layer.", "."): tensor.clone() for name, tensor in apart.state_dict().items()}
        merged.load_state_dict({name: tensor for name, tensor in tensors.items() if "lora_" not in name})
        for module in apart.backbone.modules():
            if hasattr(module, "get_delta_weight"):
                module.unmerge()
    merged.requires_grad_(False).eval().to(device)
    side = apart.spec.crop_px
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, device=device)

    def scored(detector: DdaDetector) -> Callable[[], Tensor]:
        def way() -> Tensor:
            with torch.inference_mode():
                return detector(pixels).logit

        return way

    return {"adapters apart": scored(apart), "adapters merged": scored(merged)}


def of_ways(
    part: str, ways: dict[str, Callable[[], Tensor]], images: int, repeats: int, device: torch.device
) -> Iterator[Row]:
    """Check that all ways agree, and time them; the last does what none can do without."""
    logits = {name: way() for name, way in ways.items()}
    first, *_, last = logits
    differences = {name: float((value - logits[first]).abs().max()) for name, value in logits.items()}
    if max(differences.values()) > TOLERANCE:
        raise ValueError(f"{part}: logits differ: {differences}")
    with FlopCounterMode(display=False) as counter:
        ways[last]()
    bound = matrix_bound(device, torch.float32, counter.get_total_flops() / images)
    for row in timed(ways, repeats, device, "images/s", images, base=first, part=part, **bound):
        row.note = f"|dlogit| {differences[row.name]:.1e} of {float(logits[first].std()):.2f}"
        yield row


@quick(images=2)
def rows(images: int = 0, batch: int = 0, published_sizes: int = 0, repeats: int = 5) -> Iterator[Row]:
    """Images/s, in float32.

    Args:
        images: 64 on a GPU, else 4.
        batch: Windows of B-Free at a time; 64 on a GPU, else 20.
        published_sizes: 1 for backbones of the published size, as on a GPU always.
    """
    device = best_device()
    on_gpu = device.type == "cuda"
    images, batch = images or (64 if on_gpu else 4), batch or (64 if on_gpu else 20)
    bfree_size, dda_size = (VIT_B, VIT_L) if published_sizes or on_gpu else (REDUCED, REDUCED)
    detector = randomise(BfreeDetector(bfree_size), device)
    assert isinstance(detector, BfreeDetector)
    ways, distinct = bfree_ways(detector, images, batch, device)
    sizes = ", ".join(f"{width} x {height}" for width, height in SIZES)
    part = f"B-Free ({bfree_size}): {images} pictures of {sizes}; {distinct} of {5 * images} windows differ"
    yield from of_ways(part, ways, images, repeats, device)
    part = f"DDA ({dda_size}): batches of {images} crops of 336 px, adapters of rank {LORA.rank}"
    yield from of_ways(part, dda_ways(dda_size, images, device), images, repeats, device)
