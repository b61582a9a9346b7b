"""The shipped suites: every entry is understood, none stands twice, and the counts are those of their sources."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mirror_pl.images.perturb import OPERATIONS, parse_perturbation
from mirror_pl.locate import config_dir

SUITES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(config_dir().glob("suite/*.yaml"))}
COUNTS = {"techjam": (8, 19), "realdeg": (8, 40), "arniqa": (24, 120), "social": (7, 13), "ntire": (11, 53), "bfree": (1, 1)}


def entries(suite: dict[str, Any]) -> list[str | list[str]]:
    return [entry for family in suite["families"].values() for entry in family]


def test_the_suites_are_there() -> None:
    assert set(SUITES) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_suite_is_whole(name: str) -> None:
    suite = SUITES[name]
    assert list(suite) == ["name", "title", "source", "families"]
    assert suite["name"] == name
    assert "\n" not in suite["source"]
    names = [str(parse_perturbation(entry)) for entry in entries(suite)]
    assert (len(suite["families"]), len(names)) == COUNTS[name]
    assert len(set(names)) == len(names), "each stands once"
    assert "clean" not in names


def test_each_distortion_of_arniqa_has_five_levels() -> None:
    assert {len(family) for family in SUITES["arniqa"]["families"].values()} == {5}


def test_the_levels_of_arniqa_follow_from_those_published() -> None:
    """Where the unit is another one, it is worked out again."""
    levels = {
        family: [parse_perturbation(entry).steps[0].low for entry in given]
        for family, given in SUITES["arniqa"]["families"].items()
    }
    variances = {
        "whitenoise": (0.001, 0.002, 0.003, 0.005, 0.01),
        "whitenoiseCC": (0.0001, 0.0005, 0.001, 0.002, 0.003),
        "multnoise": (0.001, 0.005, 0.01, 0.02, 0.05),
    }
    for family, published in variances.items():
        np.testing.assert_allclose(levels[family], np.sqrt(published), rtol=2e-3, err_msg="rounded to 4 places")
    np.testing.assert_allclose(levels["pixelate"], 1 / (0.95 - np.power([0.01, 0.05, 0.1, 0.2, 0.5], 0.6)), rtol=1e-3)
    np.testing.assert_allclose(levels["colordiff"], 1.5 * np.array([1, 3, 6, 8, 12]) + 2)
    # The curve runs through (.3, .25 - a / 4) and (.7, .75 + a / 4).
    np.testing.assert_allclose(levels["lincontrchange"], (0.5 + np.array([0, 0.15, -0.4, 0.3, -0.6]) / 2) / 0.4)


@pytest.mark.parametrize("name", COUNTS)
def test_every_entry_gives_a_picture(name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for entry in entries(SUITES[name]):
        result, suffix = parse_perturbation(entry)(image, ".png", "a")
        assert result.mode == "RGB"
        last = [OPERATIONS[step.name].suffix for step in parse_perturbation(entry).steps]
        assert suffix == next(filter(None, reversed(last)), ".png")
