"""The app as a person meets it: its command, and Chromium, without a network."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
LOADED = "return [...document.querySelectorAll('#shown img')].map(one => one.complete && one.naturalWidth)"
HARMLESS = ("Method not implemented.", "upload_progress")
"""What gradio's own script says on the console when an upload has ended, or was refused; nothing is wrong."""


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
    assert list(tmp_path.glob("mirror_pl-app-*")) == [], "uploads went with it"


def upload(page: Browser, path: Path) -> None:
    page.run("document.querySelector('#picture button[aria-label=\"Clear\"]')?.click()")
    page.wait(lambda: page.run("return document.querySelector('#picture input[type=file]') !== null"), "the field")
    page.upload("#picture input[type=file]", path)


def test_in_a_browser(address: str, tmp_path: Path) -> None:
    detector = load_detector("miniature")
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    (tmp_path / "bild <b>ü.PNG").write_bytes(PHOTOGRAPH.read_bytes())
    with browser(tmp_path) as page:
        page.size(1280, 900)
        page.open(address)
        page.wait_for("no detector for the real world")
        page.wait_for("Drop Image Here")

        # A picture, with its score, maps and recipe; its name's suffix decides, as on disk.
        for path in (PHOTOGRAPH, tmp_path / "bild <b>ü.PNG"):
            expected = detector.predict(path)
            upload(page, path)
            page.wait_for(path.name, "#verdict h2")
            said = page.text("#verdict")
            assert f"p_fake {expected.p_fake:.3f}" in said
            assert f"logit {expected.logit:+.3f}" in said
            assert ("compressed to JPEG at quality 96" in page.text("#details")) == (path.suffix == ".PNG")
            page.wait(lambda: len(page.run(LOADED)) == 4 and all(page.run(LOADED)), "the picture and its maps")

        # Again, with other crops.
        page.run("document.querySelector('#settings button').click()")
        page.wait(lambda: page.run("return document.querySelector('#crops')?.checkVisibility()"), "the settings")
        page.run("[...document.querySelectorAll('#crops label')].find(one => one.innerText.trim() == 'five').click()")
        page.wait(lambda: page.run("return document.querySelector('#crops input:checked').value") == "five", "the choice")
        page.run("document.querySelector('#again').click()")
        page.wait_for("5 crops of 64 x 64 px", "#details")
        again = detector.predict(tmp_path / "bild <b>ü.PNG", policy=CropPolicy("five"))
        assert f"p_fake {again.p_fake:.3f}" in page.text("#verdict")

        upload(page, tmp_path / "bad.png")
        page.wait_for("cannot identify the file", "#verdict")
        upload(page, tmp_path / "large.png")
        page.wait_for("exceed the maximum allowed size of 1.0 M")

        page.run("[...document.querySelectorAll('button[role=tab]')].find(one => one.innerText.trim() == 'Batch').click()")
        page.wait(lambda: page.run("return document.querySelector('#pictures')?.checkVisibility()"), "the tab")
        batch = [PHOTOGRAPH, tmp_path / "bad.png", tmp_path / "bild <b>ü.PNG"]
        page.upload("#pictures input[type=file]", *batch)
        page.wait_for("2 of 3 scored", "#said")
        assert "undecodable" in page.text("#rows")
        page.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.click("#download")
        saved = tmp_path / "mirror_pl.csv"
        page.wait(lambda: saved.exists() and saved.stat().st_size, "the download")
        rows = list(csv.DictReader(saved.read_text(encoding="utf-8").splitlines()))
        assert [row["name"] for row in rows] == [path.name for path in batch]
        expected_batch = detector.predict(batch, policy=CropPolicy("five"))
        for row, one in zip(rows, expected_batch, strict=True):
            assert (float(row["p_fake"]) if row["p_fake"] else None) == pytest.approx(one.p_fake, abs=1e-6)

        # On a telephone nothing is wider than the screen, in light and in dark.
        page.size(390, 844)
        page.wait(lambda: page.run("return document.documentElement.scrollWidth") <= 390, "a narrow page")
        asked = [one for one in page.requests() if not one.startswith("chrome")]
        assert len(asked) > 20
        assert [one for one in asked if not one.startswith(address)] == []
        said = [line for line in page.console() if not any(one in line for one in HARMLESS)]
        assert all("413" in line or line.endswith("Response") for line in said), said
