"""The app as a person meets it: its command, and Chromium, without a network."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, Browser, browser

from mirror_pl import load_detector
from mirror_pl.detectors import CropPolicy
from mirror_pl.locate import miniature_dir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"),
]
PHOTOGRAPH = miniature_dir() / "photographs/coffee.jpg"
LOADED = "return [...document.querySelectorAll('.maps img')].map(one => one.complete && one.naturalWidth)"
HARMLESS = "Method not implemented."
"""What gradio's own script says on the console whenever an upload has ended; nothing is wrong."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs mirror_pl[app]")
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "mirror_pl.app", "port=0", "max_upload_mb=1", "max_files=4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as app:
        try:
            assert app.stdout is not None
            yield next(found[0] for line in app.stdout if (found := re.search(r"http://\S+/", line)))
        finally:
            app.terminate()


def console(page: Browser) -> list[str]:
    return [line for line in page.console() if HARMLESS not in line]


def test_in_a_browser(address: str, tmp_path: Path) -> None:
    detector = load_detector("miniature")
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    (tmp_path / "bild <b>ü.PNG").write_bytes(PHOTOGRAPH.read_bytes())
    with browser(tmp_path) as page:
        page.size(1280, 900)
        page.open(address)
        page.wait_for("no detector for the real world")
        page.wait_for("Drop File Here")

        # A picture, with its score, maps and recipe; its name's suffix decides, as on disk.
        for path in (PHOTOGRAPH, tmp_path / "bild <b>ü.PNG"):
            expected = detector.predict(path)
            page.upload("#picture input[type=file]", path)
            page.wait_for(path.name, "#answer h2")
            shown = page.text("#answer")
            assert f"{expected.p_fake:.3f}" in shown
            assert f"{expected.logit:+.3f}" in shown
            assert ("compressed to JPEG at quality 96" in shown) == (path.suffix == ".PNG")
            page.wait(lambda: len(page.run(LOADED)) == 3 and all(page.run(LOADED)), "maps")
            assert page.run("return document.querySelectorAll('#answer rect.over').length") == 1

        # Again, with other crops: the server has forgotten the picture, the browser sends it again.
        page.click("#settings button")
        page.wait(lambda: page.run("return document.querySelector('#crops')?.checkVisibility()"), "the settings")
        page.run("[...document.querySelectorAll('#crops label')].find(one => one.innerText.trim() == 'five').click()")
        page.wait(lambda: page.run("return document.querySelector('#crops input:checked').value") == "five", "the choice")
        page.wait(lambda: page.still("button.again"), "an end of what moves")
        for _ in range(6):  # on a busy machine the page may move between where the button was and the click
            page.click("button.again")
            with suppress(AssertionError):
                page.wait(lambda: "5 crops of 64 x 64 px" in page.text("#answer"), "five crops", 10)
                break
        page.wait_for("5 crops of 64 x 64 px", "#answer")
        again = detector.predict(tmp_path / "bild <b>ü.PNG", policy=CropPolicy("five"))
        assert f"{again.p_fake:.3f}" in page.text("#answer")

        page.upload("#picture input[type=file]", tmp_path / "bad.png")
        page.wait_for("No score: UnidentifiedImageError: cannot identify the file", "#answer")
        page.upload("#picture input[type=file]", tmp_path / "large.png")
        page.wait_for("exceed the maximum allowed size of 1.0 M")

        page.run("[...document.querySelectorAll('button[role=tab]')].find(one => one.innerText.trim() == 'Batch').click()")
        batch = [PHOTOGRAPH, tmp_path / "bad.png", tmp_path / "bild <b>ü.PNG"]
        page.wait(lambda: page.run("return document.querySelector('#pictures')?.checkVisibility()"), "the tab")
        page.upload("#pictures input[type=file]", *batch)
        page.wait_for("2 of 3 scored", "#table")
        page.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.click("#table .download")
        saved = tmp_path / "mirror_pl.csv"
        page.wait(lambda: saved.exists() and saved.stat().st_size, "the download")
        rows = list(csv.DictReader(saved.read_text(encoding="utf-8").splitlines()))
        assert [row["name"] for row in rows] == [path.name for path in batch]
        expected_batch = detector.predict(batch, policy=CropPolicy("five"))
        for row, one in zip(rows, expected_batch, strict=True):
            assert (float(row["p_fake"]) if row["p_fake"] else None) == pytest.approx(one.p_fake, abs=1e-6)
        assert [row["status"] for row in rows] == ["ok", "undecodable", "ok"]
        page.upload("#pictures input[type=file]", *batch, *[tmp_path / f"{n}.png" for n in small_files(tmp_path)])
        page.wait_for("At most 4 files are taken at once")

        # On a telephone nothing is wider than the screen.
        page.size(390, 844)
        page.wait(lambda: page.run("return document.documentElement.scrollWidth") <= 390, "a narrow page")

        asked = [one for one in page.requests() if not one.startswith("chrome")]
        assert len(asked) > 20
        assert [one for one in asked if not one.startswith(address)] == []
        # The console names each reply that is an error, and nothing else.
        assert all("413" in line and "/gradio_api/upload" in line for line in console(page))

    left = [path for path in tmp_path.rglob("*") if path.is_file() and "mirror_pl-app-" in str(path)]
    assert left == []


def small_files(folder: Path) -> list[int]:
    for number in range(2):
        (folder / f"{number}.png").write_bytes(b"1")
    return [0, 1]


def test_by_keyboard_alone(address: str, tmp_path: Path) -> None:
    tab, enter = "\ue004", "\ue007"
    with browser(tmp_path) as page:
        page.open(address)
        page.wait_for("Drop File Here")
        reached = []
        for _ in range(12):
            page.keys(tab)
            focus = "const at = document.activeElement; return (at.getAttribute('aria-label') || at.innerText || at.tagName).trim()"
            reached.append(str(page.run(focus)))
            if "Batch" in reached[-1] or "One picture" in reached[-1]:
                break
        assert any("Crops" in name for name in reached), reached
        assert "One picture" in reached[-1], reached
        page.keys(tab)
        page.keys(enter)
        page.wait(
            lambda: (
                page.run("return document.querySelector('button[role=tab][aria-selected=true]').innerText.trim()") == "Batch"
            ),
            f"the other tab; focus went {reached}",
            10,
        )
        page.keys(tab)
        assert page.run("return document.activeElement.closest('#pictures') !== null"), "the field for files"
