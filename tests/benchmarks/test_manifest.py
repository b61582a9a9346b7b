"""Manifests: every shipped one is sound, and mistakes are named."""

from __future__ import annotations

from typing import Any

import pytest
from benchmark_trees import DOCUMENTED

from mirror_pl.benchmarks import Manifest, parse_manifest
from mirror_pl.config.build import build_manifest
from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError
from mirror_pl.locate import config_dir

SHIPPED = sorted(path.stem for path in (config_dir() / "benchmark").glob("*.yaml"))

# The published tree: folder, key and subsets, copied from the published code's tables.
PUBLISHED = {
    "aigcdetect": ("AIGC_bm", "AIGCDetectBenchmark", "sd_xl progan stylegan biggan cyclegan stargan gaugan stylegan2 whichfaceisreal ADM Glide Midjourney stable_diffusion_v_1_4 stable_diffusion_v_1_5 VQDM wukong DALLE2"),
    "genimage": ("Genimage", "Genimage", "Midjourney stable_diffusion_v_1_4 stable_diffusion_v_1_5 ADM Glide wukong VQDM biggan2"),
    "univfd": ("UniversalFakeDetect", "UnivFD", "deepfake seeingdark san ldm_200_cfg ldm_200 ldm_100 imle guided glide_50_27 glide_100_27 glide_100_10 dalle crn"),
    "synthbuster": ("synthbuster", "Synthbuster", "dalle2 dalle3 firefly glide midjourney-v5 stable-diffusion-1-3 stable-diffusion-1-4 stable-diffusion-2 stable-diffusion-xl"),
    "evalgen": ("GenEval-JPEG", "EvalGEN", "OmniGen NOVA Infinity GoT Flux"),
    "drct2m": ("drct", "DRCT", "real SDXL-DR LDM SDv1.4 SDv1.5 SDv2 SDXL SDXL-Refiner SD-Turbo SDXL-Turbo LCM-SDv1.5 LCM-SDXL SDv1-Ctrl SDv2-Ctrl SDXL-Ctrl SDv1-DR SDv2-DR"),
    "chameleon": ("Chameleon/test", "Chameleon", "ALL"),
    "synthwildx": ("synthwildx", "Synthwildx", "dalle3 firefly midjourney_v5"),
    "wildrf": ("WildRF/test", "WildRF", "facebook reddit twitter"),
    "aigibench": ("AIGIBench", "AIGIBench", "SocialRF CommunityAI"),
    "cospy": ("CO-SPY-In-the-Wild", "CO-SPY", "midjourney lexica flux dalle3 civitai"),
    "rrdataset": ("RRDataset", "RRDataset", "ALL"),
    "bfree_online": ("B-Free", "B-Free", "ALL"),
    "human_aigi": ("human_aigi_orig", "AIGI-Human-orig", "SD-3-Medium SD-3.5-Large FLUX.1-dev PixArt-Sigma Midjourney-v6 DALL-E-3"),
    "human_aigi_hard": ("aigi_human", "AIGI-Human-hard", "SD-3-Medium SD-3.5-Large FLUX.1-dev PixArt-Sigma Midjourney-v6 DALL-E-3"),
    "aigi_now": ("AIGI-Now", "AIGI-Now", "ALL"),
    "realchain": ("realchain_all", "realchain_all", "flux hunyuan3.0 nanobanana qwenimage sd3.5 seedream_i2i seedream4"),
    "realchain_cd": ("realchain_CD_all", "realchain_CD_all", "flux hunyuan3.0 nanobanana qwenimage sd3.5 seedream_i2i seedream4"),
}  # fmt: skip


def manifest_of(name: str) -> Manifest:
    return build_manifest(compose("eval", [f"benchmark={name}"]))


def test_the_published_ones_are_all_there() -> None:
    assert set(SHIPPED) == {"miniature", "folder", *DOCUMENTED, *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tree(name: str) -> None:
    manifest = manifest_of(name)
    folder, key, subsets = PUBLISHED[name]
    assert manifest.name == name
    assert manifest.published_key == key
    published = manifest.layouts["published"]
    assert published.folders == (folder,)
    assert tuple(published.subsets) == tuple(subsets.split())
    expected = {"ALL": (".",)} if subsets == "ALL" else {subset: (subset,) for subset in subsets.split()}
    assert published.subsets == expected
    assert published.labels == {"0_real": 0, "1_fake": 1}
    assert published.bare is None


def plain() -> dict[str, Any]:
    return {
        "name": "x", "title": "X", "group": "other", "published_key": "x", "source": "-", "licence": "-",
        "how_to_get": "-", "citation": "-", "subsets": ["a", "b"], "layouts": {"published": {"folders": "x"}},
    }  # fmt: skip


def test_labels_may_have_other_names() -> None:
    values = plain()
    values["layouts"]["published"]["labels"] = {"nature": "real", "ai": "fake"}
    assert parse_manifest(values).layouts["published"].labels == {"nature": 0, "ai": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(lisence="-"), r"benchmark x: unknown key 'lisence'. Did you mean licence\?"),
        (lambda v: v.pop("group"), "benchmark x: missing group"),
        (lambda v: v.update(group="wild"), "group must be one of standard, in-the-wild"),
        (lambda v: v.update(layouts={}), "at least one layout"),
        (lambda v: v["layouts"]["published"].update(subsets=3), "layout published: subsets must be"),
        (lambda v: v["layouts"]["published"].update(subsets={"d": "x"}), "layout published: unknown subset 'd'"),
        (lambda v: v.update(shared_reals={"r": {"folders": "x", "serves": ["d"]}}), "serves the unknown subset 'd'"),
        (lambda v: v.update(shared_reals={"reals": {"folders": "x"}}), "this name is kept for .* reals=FOLDER"),
        (lambda v: v.update(expected={"d": {"real": 3}}), "expected names the unknown subset 'd'"),
        (lambda v: v["layouts"]["published"].update(labels={"a": "maybe"}), "label must be one of real, fake, got 'maybe'"),
        (lambda v: v["layouts"]["published"].pop("folders"), "layout published: missing folders"),
        (
            lambda v: v["layouts"]["published"].update(subset_column="x"),
            "subset_column must name a column of a table's file",
        ),
    ],
)
def test_mistakes_are_named(change: Any, message: str) -> None:
    values = plain()
    change(values)
    with pytest.raises(ConfigError, match=message):
        parse_manifest(values)
