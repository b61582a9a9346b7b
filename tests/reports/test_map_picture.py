"""Maps as pictures: each value's colour stands where its patch is, whatever the crop, and the legend says what is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import mirror_pl
from mirror_pl.reports import map_overlay
from mirror_pl.reports.map_overlay import (
    MAPS,
    NOT_FINITE,
    OPACITY,
    ColourRange,
    MapLayer,
    colours_of,
    draw_map,
    legend_of,
    number,
    overlay,
    own_range,
)

UNIT = ColourRange(0, 1)
VIRIDIS = [tuple(map(int, colour)) for colour in colormaps["viridis"](np.linspace(0, 1, 11), bytes=True)[:, :3]]
MAGENTA = (255, 0, 255)


def plain(width: int, height: int, grey: int = 100) -> Image.Image:
    return Image.new("RGB", (width, height), (grey, grey, grey))


def colour_at(drawn: Image.Image, x: float, y: float, beneath: int = 100) -> tuple[int, ...]:
    """The map's own colour at a drawn pixel, with the grey beneath it taken out."""
    pixel = np.array(drawn.getpixel((int(x), int(y))), float)
    return tuple(np.clip(np.rint((pixel - (1 - OPACITY) * beneath) / OPACITY), 0, 255).astype(int))


def close_to(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 2


def test_colours() -> None:
    assert NOT_FINITE == "magenta"
    for value in (np.nan, np.inf, -np.inf):
        assert tuple(colours_of(np.array([value]), UNIT)[0]) == MAGENTA
    values = np.array([-1, 0, 0.5, 1, 9])
    assert [tuple(colour) for colour in colours_of(values, UNIT)] == [VIRIDIS[at] for at in (0, 0, 5, 10, 10)]
    assert [tuple(colour) for colour in colours_of(values, ColourRange(2, 2))] == [VIRIDIS[0]] * 5


def test_the_scale_in_a_gallery_has_the_colours_of_its_maps() -> None:
    style = Path(mirror_pl.__file__).with_name("reports").joinpath("page/pictures.css").read_text()
    stops = re.findall("#([0-9a-f]{6})", re.search(r"to right, (.*?)\)", style)[1])  # type: ignore[index]
    assert all(close_to(tuple(bytes.fromhex(stop)), colour) for stop, colour in zip(stops, VIRIDIS, strict=True))


def test_ranges() -> None:
    layers = [MapLayer(np.array([[1.0, np.nan]]), (0, 0, 2, 1)), MapLayer(np.array([[5.0, np.inf]]), (0, 0, 2, 1))]
    assert own_range(layers) == ColourRange(1, 5, fixed=False)
    assert own_range([MapLayer(np.array([[np.nan]]), (0, 0, 1, 1))]) == ColourRange(0, 0, fixed=False)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 3), (2, 1), (3, 3)])
def test_a_value_stands_where_its_patch_is(row: int, col: int) -> None:
    values = np.zeros((4, 4))
    values[row, col] = 1
    drawn = overlay(plain(400, 300), [MapLayer(values, (160, 40, 320, 200))], UNIT)
    assert drawn.size == (400, 300)
    for r in range(4):
        for c in range(4):
            expected = VIRIDIS[-1] if (r, c) == (row, col) else VIRIDIS[0]
            assert close_to(colour_at(drawn, 160 + 40 * c + 20, 40 + 40 * r + 20), expected), (r, c)
    pixels = np.array(drawn)
    outside = np.ones((300, 400), bool)
    outside[40:200, 160:320] = False
    assert (pixels[outside] == 100).all(), "nothing but the crop is drawn over"
    assert drawn.getpixel((160, 40)) == drawn.getpixel((319, 199)) == (255, 255, 255)


def test_a_large_picture_is_shrunk_and_a_small_one_enlarged() -> None:
    values = np.array([[0.0, 1.0]])
    drawn = overlay(plain(2000, 1000), [MapLayer(values, (500, 250, 1500, 750))], UNIT)
    assert drawn.size == (512, 256)
    assert close_to(colour_at(drawn, 512 * 0.45, 128), VIRIDIS[0])
    assert close_to(colour_at(drawn, 512 * 0.55, 128), VIRIDIS[-1])
    assert overlay(plain(64, 48), [MapLayer(values, (0, 0, 64, 48))], UNIT).size == (512, 384)
    assert overlay(plain(300, 300), [MapLayer(values, (0, 0, 300, 300))], UNIT).size == (300, 300)


def test_a_crop_with_padding() -> None:
    """The detector sees black around a small picture, and so does the reader."""
    drawn = overlay(plain(40, 30, 200), [MapLayer(np.array([[0.0, 1.0], [0.0, 1.0]]), (-12, -17, 52, 47))], UNIT)
    assert drawn.size == (512, 512)
    assert close_to(colour_at(drawn, 40, 40, beneath=0), VIRIDIS[0])
    assert close_to(colour_at(drawn, 470, 470, beneath=0), VIRIDIS[-1])
    assert close_to(colour_at(drawn, 8 * 14, 8 * 32, beneath=200), VIRIDIS[0])
    assert close_to(colour_at(drawn, 8 * 40, 8 * 32, beneath=200), VIRIDIS[-1])
    half_out = overlay(plain(100, 100), [MapLayer(np.ones((1, 1)), (50, -50, 150, 50))], ColourRange(1, 2))
    assert half_out.size == (450, 450), "100 x 100 and what the crop adds to it, three times as large"
    assert half_out.getpixel((10, 10)) == (0, 0, 0)


def test_overlapping_crops_show_their_mean() -> None:
    layers = [MapLayer(np.zeros((2, 2)), (0, 0, 200, 200)), MapLayer(np.ones((2, 2)), (100, 0, 300, 200))]
    drawn = overlay(plain(300, 200), layers, UNIT)
    assert close_to(colour_at(drawn, 50, 100), VIRIDIS[0])
    assert close_to(colour_at(drawn, 150, 100), VIRIDIS[5])
    assert close_to(colour_at(drawn, 250, 100), VIRIDIS[-1])


def test_a_crop_too_small_to_be_seen_is_enlarged_below() -> None:
    values = np.array([[0.0, 1.0]] * 2).repeat(7, axis=0).repeat(7, axis=1)
    drawn = overlay(plain(4000, 3000), [MapLayer(values, (1888, 1388, 2112, 1612))], UNIT)
    assert drawn.size == (512, 384 + 12 + 448)
    assert close_to(colour_at(drawn, 150, 600), VIRIDIS[0])
    assert close_to(colour_at(drawn, 350, 600), VIRIDIS[-1])


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 3), (511, 513)])
def test_any_size(size: tuple[int, int]) -> None:
    left, top = (size[0] - 64) / 2, (size[1] - 64) / 2
    drawn = draw_map(plain(*size), [MapLayer(np.eye(8), (left, top, left + 64, top + 64))], MAPS["entropy"])
    assert 360 <= drawn.width <= 512
    assert drawn.height < 1500


def test_what_is_not_finite_has_a_colour_of_its_own() -> None:
    drawn = overlay(plain(200, 100), [MapLayer(np.array([[np.nan, 1.0]]), (0, 0, 200, 100))], UNIT)
    assert close_to(colour_at(drawn, 100, 100), MAGENTA)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written below pictures."""
    written: list[str] = []

    def legend(*arguments: Any) -> Figure:
        figure = legend_of(*arguments)
        written.extend(text.get_text().replace("\n", " ") for text in figure.findobj(Text))  # type: ignore[attr-defined]
        return figure

    monkeypatch.setattr(map_overlay, "legend_of", legend)
    return written


def test_the_legend(words: list[str]) -> None:
    layer = MapLayer(np.array([[2.0, 4.0], [3.0, 2.5]]), (-10, 0, 90, 100))
    drawn = draw_map(plain(200, 100), [layer], MAPS["residual_norm"], notes=["Of the picture at 20 x 10 pixels."])
    bare = overlay(plain(200, 100), [layer])
    assert drawn.height > bare.height
    assert drawn.width == max(bare.width, 360)
    text = " ".join(words)
    for words_there in (
        "Residual norm of each patch (feature units)",
        "2.00",
        "3.00",
        "4.00",
        "The scale is this picture's own",
    ):
        assert words_there in text
    assert "Black around the picture is padding" in text
    assert "Of the picture at 20 x 10 pixels." in text

    words.clear()
    inside = [MapLayer(layer.values, (0, 0, 100, 100)), MapLayer(np.full((2, 2), np.nan), (100, 0, 200, 100))]
    draw_map(plain(200, 100), inside, MAPS["max_weight"], ColourRange(0, 2.5))
    text = " ".join(words)
    assert {"Largest retrieval weight of each patch (share)", "0.00", "1.25", "2.50"} <= {*words}
    assert "The scale was given; 2 of 8 patches lie beyond it." in text
    assert "2 crops; where they overlap, their mean." in text
    assert "Magenta: no finite value." in text
    assert "padding" not in text

    words.clear()
    draw_map(plain(4000, 3000), [MapLayer(np.eye(14), (1888, 1388, 2112, 1612))], MAPS["entropy"], ColourRange(0, 1))
    assert "Below it, the crop, enlarged." in " ".join(words)


def test_numbers_have_the_digits_that_their_range_needs() -> None:
    assert number(0.0312, ColourRange(0.03, 0.61)) == "0.031"
    assert number(7.1234, ColourRange(2, 10)) == "7.12"
    assert number(152.3, ColourRange(100, 900)) == "152"
    assert number(1.5, ColourRange(1.5, 1.5)) == "1.50"
    assert number(0.0, ColourRange(0, 0)) == "0.00"
    assert number(3e-9, ColourRange(0, 5e-9)) == "3e-09"
