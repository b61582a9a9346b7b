"""Small fake trees of every benchmark: as the published code expects it, and as the official download lies on disk.

Each is a mapping of path to (subset, label, picture): the same pictures in both trees, so that both must give one table.
A picture of a shared set of reals stands under "shared:NAME".
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

Picture = tuple[str, int, str]
Tree = dict[str, Picture]
N = 2
"""Pictures of each class in a subset."""


def pictures(subset: str, label: int, folder: str, suffix: str = ".png") -> Tree:
    return {f"{folder}/{i}{suffix}": (subset, label, f"{subset}/{label}/{i}") for i in range(N)}


def classed(subset: str, real: str, fake: str, suffix: str = ".png") -> Tree:
    return pictures(subset, 0, real, suffix) | pictures(subset, 1, fake, suffix)


def shared(name: str, folder: str) -> Tree:
    return {f"{folder}/{i}.png": (f"shared:{name}", 0, f"real of {name}/{i}") for i in range(N)}


def merge(*trees: Tree) -> Tree:
    return {path: picture for tree in trees for path, picture in tree.items()}


def labelled(base: str, subsets: dict[str, str], real: str = "0_real", fake: str = "1_fake") -> Tree:
    return merge(*(classed(name, f"{base}/{f}/{real}", f"{base}/{f}/{fake}") for name, f in subsets.items()))


def fakes(base: str, subsets: dict[str, str], below: str = "") -> Tree:
    return merge(*(pictures(name, 1, f"{base}/{f}{below}") for name, f in subsets.items()))


def same(text: str) -> dict[str, str]:
    return {name: name for name in text.split()}


AIGC = "sd_xl progan stylegan biggan cyclegan stargan gaugan stylegan2 whichfaceisreal ADM Glide Midjourney stable_diffusion_v_1_4 stable_diffusion_v_1_5 VQDM wukong DALLE2"
GENIMAGE = {
    "Midjourney": "Midjourney/imagenet_midjourney", "stable_diffusion_v_1_4": "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4",
    "stable_diffusion_v_1_5": "stable_diffusion_v_1_5/imagenet_ai_0424_sdv5", "ADM": "ADM/imagenet_ai_0508_adm",
    "Glide": "glide/imagenet_glide", "wukong": "wukong/imagenet_ai_0424_wukong", "VQDM": "VQDM/imagenet_ai_0419_vqdm",
    "biggan2": "BigGAN/imagenet_ai_0419_biggan",
}  # fmt: skip
LAION = "ldm_200_cfg ldm_200 ldm_100 glide_50_27 glide_100_27 glide_100_10 dalle"
SYNTHBUSTER = "dalle2 dalle3 firefly glide midjourney-v5 stable-diffusion-1-3 stable-diffusion-1-4 stable-diffusion-2 stable-diffusion-xl"
DRCT = {
    "SDXL-DR": "stable-diffusion-xl-1.0-inpainting-0.1", "LDM": "ldm-text2im-large-256", "SDv1.4": "stable-diffusion-v1-4",
    "SDv1.5": "stable-diffusion-v1-5", "SDv2": "stable-diffusion-2-1", "SDXL": "stable-diffusion-xl-base-1.0",
    "SDXL-Refiner": "stable-diffusion-xl-refiner-1.0", "SD-Turbo": "sd-turbo", "SDXL-Turbo": "sdxl-turbo",
    "LCM-SDv1.5": "lcm-lora-sdv1-5", "LCM-SDXL": "lcm-lora-sdxl", "SDv1-Ctrl": "sd-controlnet-canny",
    "SDv2-Ctrl": "sd21-controlnet-canny", "SDXL-Ctrl": "controlnet-canny-sdxl-1.0", "SDv1-DR": "stable-diffusion-inpainting",
    "SDv2-DR": "stable-diffusion-2-inpainting",
}  # fmt: skip
REALCHAIN = {
    "flux": "Flux1", "hunyuan3.0": "Hunyuan3", "nanobanana": "NanoBanana", "qwenimage": "QwenImage", "sd3.5": "SDv3.5",
    "seedream_i2i": "i2i", "seedream4": "Seedream4",
}  # fmt: skip
HUMAN = "SD-3-Medium SD-3.5-Large FLUX.1-dev PixArt-Sigma Midjourney-v6 DALL-E-3"
NESTED = ("progan", "stylegan", "stylegan2", "cyclegan")


def aigcdetect() -> Tree:
    flat = {name: name for name in AIGC.split() if name not in NESTED}
    nested = {name: f"{name}/horse" for name in NESTED}
    return labelled("AIGCDetectionBenchMark/test", flat | nested)


def genimage() -> Tree:
    tree = labelled("GenImage", {name: f"{folder}/val" for name, folder in GENIMAGE.items()}, "nature", "ai")
    train = labelled("GenImage", {name: f"{folder}/train" for name, folder in GENIMAGE.items()}, "nature", "ai")
    return tree | {path: ("never", label, "never") for path, (_, label, _) in train.items()}


def univfd() -> Tree:
    own = labelled("CNN_synth_testset", same("deepfake seeingdark san imle crn"))
    diffusion = fakes("diffusion_datasets", same(f"{LAION} guided"), "/1_fake")
    reals = [shared(name, f"diffusion_datasets/{name}/0_real") for name in ("laion", "imagenet")]
    return merge(own, diffusion, *reals)


def rrdataset() -> Tree:
    return labelled("RRDataset_final", same("original transfer redigital"), "real", "ai")


def bfree_online() -> Tree:
    real = {f"B-Free/REAL/source{i}/img.webp": ("ALL", 0, f"ALL/0/{i}") for i in range(N)}
    return real | {f"B-Free/FAKE/source{i}/img.jpg": ("ALL", 1, f"ALL/1/{i}") for i in range(N)}


def aigi_now() -> Tree:
    shards = {f"data/{i:06d}.tar/pixel/generator{i}": i for i in range(N)}
    real = {f"AIGI-Now/{folder}/0_real/{i}.jpg": ("ALL", 0, f"ALL/0/{i}") for folder, i in shards.items()}
    return real | {f"AIGI-Now/{folder}/1_fake/{i}.jpg": ("ALL", 1, f"ALL/1/{i}") for folder, i in shards.items()}


OFFICIAL: dict[str, Callable[[], Tree]] = {
    "aigcdetect": aigcdetect,
    "genimage": genimage,
    "univfd": univfd,
    "synthbuster": lambda: fakes("synthbuster", same(SYNTHBUSTER)) | shared("RAISE", "synthbuster/real_RAISE_1k"),
    "evalgen": lambda: fakes("GenEval-JPEG", same("OmniGen NOVA Infinity GoT Flux")),
    "drct2m": lambda: fakes("DRCT-2M/images", DRCT, "/val2017") | shared("MSCOCO", "coco/val2017"),
    "chameleon": lambda: labelled("Chameleon/test", {"ALL": "."}),
    "synthwildx": lambda: fakes("synthwildx", same("dalle3 firefly midjourney_v5")) | shared("real", "synthwildx/real"),
    "wildrf": lambda: labelled("WildRF/test", same("facebook reddit twitter")),
    "aigibench": lambda: labelled("AIGIBench/test", same("SocialRF CommunityAI")),
    "cospy": lambda: fakes("CO-SPY-In-the-Wild", same("midjourney lexica flux dalle3 civitai")),
    "rrdataset": rrdataset,
    "bfree_online": bfree_online,
    "human_aigi": lambda: labelled("human_aigi_orig", same(HUMAN)),
    "human_aigi_hard": lambda: labelled("aigi_human", same(HUMAN)),
    "aigi_now": aigi_now,
    "realchain": lambda: fakes("RealChain/ND", REALCHAIN) | shared("Real", "RealChain/ND/Real"),
    "realchain_cd": lambda: fakes("RealChain/CD", REALCHAIN) | shared("Real", "RealChain/CD/Real"),
}

DOCUMENTED = (
    "community_forensics", "dda_coco", "forensynths", "itw_sm", "mnw", "ntire2026", "openfake", "t2i_corebench",
)  # fmt: skip
"""Benchmarks without a published tree, whose layout is known from documents only."""

SERVED = {
    "synthbuster": {"RAISE": SYNTHBUSTER.split()},
    "univfd": {"laion": LAION.split(), "imagenet": ["guided"]},
    "drct2m": {"MSCOCO": list(DRCT)},
    "synthwildx": {"real": ["dalle3", "firefly", "midjourney_v5"]},
    "realchain": {"Real": list(REALCHAIN)},
    "realchain_cd": {"Real": list(REALCHAIN)},
}
"""Subsets that each shared set of reals serves."""


def table_of(name: str, tree: Tree) -> set[Picture]:
    """The rows that a tree must give: one a picture and subset."""
    rows = {picture for picture in tree.values() if not picture[0].startswith("shared:") and picture[0] != "never"}
    for group, _, picture in tree.values():
        if group.startswith("shared:"):
            rows |= {(subset, 0, picture) for subset in SERVED[name][group.removeprefix("shared:")]}
    return rows


def published(name: str, folder: str) -> Tree:
    """The same pictures in the published tree: every subset with copies of its reals."""
    tree: Tree = {}
    rows = table_of(name, OFFICIAL[name]())
    whole = {"rrdataset", "chameleon", "bfree_online", "aigi_now"}
    for subset, label, picture in sorted(rows):
        place = folder if name in whole else f"{folder}/{subset}"
        file = picture.replace("/", "_").replace(" ", "_")
        tree[f"{place}/{'1_fake' if label else '0_real'}/{file}.png"] = (subset, label, picture)
    return tree


def write(root: Path, tree: Tree) -> Path:
    """Write a tree; what stands below a name that ends in .tar becomes a member of that tar."""
    shards: dict[Path, list[tuple[str, bytes]]] = {}
    for path, (_, _, picture) in tree.items():
        parts = Path(path).parts
        tar = next((i for i, part in enumerate(parts) if part.lower().endswith(".tar")), None)
        if tar is not None:
            shards.setdefault(root.joinpath(*parts[: tar + 1]), []).append(("/".join(parts[tar + 1 :]), picture.encode()))
            continue
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(picture)
    for file, members in shards.items():
        write_shard(file, members)
    return root


def write_shard(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar as webdataset does: files only, no entries for folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, BytesIO(content))
    return file
