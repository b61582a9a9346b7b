"""Do the maps point at what was forged? A square rebuilt by a decoder of the miniature, planted in a real crop.

    python bench/anomaly_map.py                                     100 pictures, four decoders; docs/maps.md has the numbers
    python bench/anomaly_map.py --without-lora                      the bank on the frozen backbone that it was learnt on
    python bench/anomaly_map.py --folder outputs/anomaly            also pictures, one of each photograph, to look at
    python bench/anomaly_map.py --pictures 4 --steps 5              to see that it runs

Real crops are those of the test photographs, which neither detector nor decoders were trained on. A decoder rebuilds each as
a whole; a square of 3 x 3 tokens, at a random place on the grid of tokens, is taken from that and put into the real one.
Planted picture and control, which is the same crop as it was, are each written as a JPEG once, as all of the miniature is. A
map's mean inside the square is divided by its mean outside; that of the control at the same place says what the place does.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mirror_pl import load_detector
from mirror_pl.detectors import MirrorDetector
from mirror_pl.detectors.maps import token_maps
from mirror_pl.detectors.scoring import predict_all
from mirror_pl.images import plan_crops
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.locate import miniature_dir
from mirror_pl.miniature import WorldSpec
from mirror_pl.miniature.decoders import DECODERS, Rebuilder
from mirror_pl.miniature.photographs import Split, cut_crops, read_photographs, vary
from mirror_pl.miniature.rebuilding import rebuild, train_rebuilder
from mirror_pl.reports.map_overlay import MAPS, ColourRange, MapLayer, draw_map

TOKENS = 3
"""Side of the square, in tokens."""
REPLICATES = 10_000
"""Of the bootstrap."""


def crops_of(split: Split, count: int, spec: WorldSpec, seed: int) -> tuple[list[str], NDArray[np.uint8]]:
    """The crops of the miniature world with that seed: `count` of each photograph, photographs in turn."""
    names, parts = [], []
    for name, photograph in read_photographs(miniature_dir() / "photographs", split).items():
        rng = np.random.default_rng([seed, *name.encode()])
        cut = cut_crops(name, photograph, count, spec, rng)
        parts.append(vary(cut, rng) if split == "train" else cut)
        names += [f"{name}_{number:03d}" for number in range(count)]
    return names, np.concatenate(parts)


def train_decoders(spec: WorldSpec, seed: int) -> dict[str, Rebuilder]:
    """Train the decoders as the miniature world does, whose bytes depend on seed and threads."""
    _, crops = crops_of("train", spec.train_crops, spec, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    torch.manual_seed(seed)
    trained = {}
    for name, make in DECODERS.items():
        trained[name] = make()
        train_rebuilder(trained[name], crops, spec, lambda _: None)
        print(f"trained {name}", flush=True)
    torch.set_num_threads(threads)
    return trained


def as_jpeg(crops: NDArray[np.uint8], spec: WorldSpec) -> NDArray[np.uint8]:
    """Write crops as the miniature does, and read them again."""
    found = []
    for pixels in crops:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=spec.jpeg_quality, subsampling="4:2:0")
        found.append(np.array(Image.open(buffer).convert("RGB")))
    return np.stack(found)


def maps_of(detector: MirrorDetector, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Each map of crops ``(N, crop, crop, 3)``, as ``(N, rows, cols)``."""
    size = (crops.shape[2], crops.shape[1])
    found = token_maps(detector, PreparedPicture(crops, plan_crops(size, detector.spec) * len(crops), size))
    return {name: np.stack([getattr(maps, name) for maps in found]) for name in MAPS}


def p_fake_of(detector: MirrorDetector, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The detector's verdicts on crops."""
    size = (crops.shape[2], crops.shape[1])
    plan = plan_crops(size, detector.spec)
    found = predict_all(detector, [PreparedPicture(crop[None], plan, size) for crop in crops])
    return np.array([prediction.p_fake for prediction in found], float)


@torch.no_grad()
def without_lora(detector: MirrorDetector) -> None:
    """Take the adapters out: features are those that the bank was learnt from. The head was not trained for them."""
    for name, parameter in detector.named_parameters():
        if "lora_B" in name:
            parameter.zero_()


def inside_over_outside(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of maps ``(N, rows, cols)`` where `inside`, over that elsewhere; ``(N,)``."""
    values = values.astype(float)
    within = (values * inside).sum(axis=(1, 2)) / inside.sum(axis=(1, 2))
    return within / ((values * ~inside).sum(axis=(1, 2)) / (~inside).sum(axis=(1, 2)))


def median(values: NDArray[np.float64], seed: int = 0) -> str:
    """The median and its 95 % interval, by drawing pictures again."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(REPLICATES, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return f"{np.median(values):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100, help="a multiple of the four test photographs")
    parser.add_argument("--steps", type=int, default=WorldSpec.steps, help="of training, for each decoder")
    parser.add_argument("--checkpoint", default="miniature", help="the detector; the shipped one by default")
    parser.add_argument("--without-lora", action="store_true", help="take the adapters out of the detector")
    parser.add_argument("--seed", type=int, default=0, help="of crops and decoders, as the miniature's; and of places")
    parser.add_argument("--folder", type=Path, help="where to put pictures of maps")
    options = parser.parse_args()

    spec = WorldSpec(steps=options.steps)
    detector = load_detector(options.checkpoint, merge=False)
    if options.without_lora:
        without_lora(detector)
    patch, edge = detector.config.backbone.patch_px, spec.crop_px // detector.config.backbone.patch_px
    photographs = len(read_photographs(miniature_dir() / "photographs", "test"))
    names, reals = crops_of("test", max(1, options.pictures // photographs), spec, options.seed)
    places = np.random.default_rng(options.seed).integers(edge - TOKENS + 1, size=(len(reals), 2))
    inside = np.zeros((len(reals), edge, edge), bool)
    for mask, (row, col) in zip(inside, places, strict=True):
        mask[row : row + TOKENS, col : col + TOKENS] = True
    mask_px = inside.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]

    control = as_jpeg(reals, spec)
    of_control, real_scores = maps_of(detector, control), p_fake_of(detector, control)
    side = TOKENS * patch
    print(f"{len(reals)} pictures, a square of {side} px in {spec.crop_px}; median [95 % of the bootstrap over pictures]")
    print("| decoder | map | planted | control, same place | planted over control | larger than control |")
    print("|---|---|---|---|---|---|")
    whole = []
    for name, rebuilder in train_decoders(spec, options.seed).items():
        rebuilt = rebuild(rebuilder, reals)
        planted = as_jpeg(np.where(mask_px, rebuilt, reals), spec)
        of_planted, of_whole = maps_of(detector, planted), maps_of(detector, as_jpeg(rebuilt, spec))
        for kind in MAPS:
            ratio, same = (inside_over_outside(maps[kind], inside) for maps in (of_planted, of_control))
            larger = f"{int((ratio > same).sum())} of {len(ratio)}"
            print(f"| {name} | {kind} | {median(ratio)} | {median(same)} | {median(ratio / same)} | {larger} |")
            change = of_whole[kind].mean(axis=(1, 2)) / of_control[kind].mean(axis=(1, 2))
            whole.append(f"| {name} | {kind} | {median(change.astype(float))} |")
        decided = [(p_fake_of(detector, crops) > 0.5).mean() for crops in (planted, as_jpeg(rebuilt, spec))]
        whole.append(f"| {name} | decided fake | planted {decided[0]:.2f}, whole {decided[1]:.2f} |")
        if options.folder is not None:
            write_pictures(options.folder, name, names, (control, of_control), (planted, of_planted), inside)
    print(f"\nWhole pictures rebuilt; of the reals, {(real_scores > 0.5).mean():.2f} are decided fake")
    print("| decoder | map | rebuilt over real |\n|---|---|---|")
    print("\n".join(whole))


Mapped = tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]
"""Pictures and their maps."""
SIDE_PX = 384
"""Of a drawn crop."""


def write_pictures(
    folder: Path, decoder: str, names: list[str], control: Mapped, planted: Mapped, inside: NDArray[np.bool_]
) -> None:
    """Draw a picture of each photograph as it was and planted, with the outline of the square, and their residual norms."""
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(0, len(names), max(1, len(names) // 4)):
        both = [maps["residual_norm"][at] for _, maps in (control, planted)]
        colours = ColourRange(float(np.min(both)), float(np.max(both)))
        panels = []
        for title, (pictures, maps) in (("Real", control), (f"Planted: {decoder}", planted)):
            picture = Image.fromarray(pictures[at])
            layer = MapLayer(maps["residual_norm"][at], (0, 0, *picture.size))
            shown = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)
            panels.append(with_square(shown, inside[at], title))
            drawn = draw_map(picture, [layer], MAPS["residual_norm"], colours, side_px=SIDE_PX)
            panels.append(with_square(drawn, inside[at], title))
        strip = Image.new("RGB", (len(panels) * (SIDE_PX + 12), max(panel.height for panel in panels)), "white")
        for number, panel in enumerate(panels):
            strip.paste(panel, (number * (SIDE_PX + 12), 0))
        strip.save(folder / f"{decoder}_{names[at]}.png", optimize=True)


def with_square(picture: Image.Image, inside: NDArray[np.bool_], title: str) -> Image.Image:
    """Outline the square on a picture whose first `SIDE_PX` rows show the crop, and put a title above."""
    token = SIDE_PX / len(inside)
    rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    titled = Image.new("RGB", (picture.width, picture.height + 30), "white")
    titled.paste(picture, (0, 30))
    pen = ImageDraw.Draw(titled)
    pen.text((2, 4), title, "black", ImageFont.load_default(18))
    box = (cols[0] * token, 30 + rows[0] * token, (cols[-1] + 1) * token - 1, 30 + (rows[-1] + 1) * token - 1)
    for width, colour in ((5, "black"), (3, "white")):
        pen.rectangle(box, outline=colour, width=width)
    return titled


if __name__ == "__main__":
    main()
