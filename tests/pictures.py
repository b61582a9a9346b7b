"""Makes the pictures in docs/pictures anew, from the miniature and with Chromium: a function per picture.

make pictures                                  all of them; the planted squares train decoders, which takes minutes
make pictures ARGS='report_desktop gallery'    some
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from browser import browser
from PIL import Image

from mirror_pl import load_detector
from mirror_pl.detectors import CropPolicy
from mirror_pl.locate import miniature_dir
from mirror_pl.reports.html_page import breaking
from mirror_pl.reports.map_overlay import MAPS, MapLayer, draw_map

PICTURES = Path(__file__).parents[1] / "docs/pictures"
HOME = "/home/me/mirror_pl"
"""Stands in pictures for where this checkout and the runs are."""
LARGEST = 300_000
"""Bytes."""


def save(picture: Image.Image, name: str) -> None:
    """Save a picture with as many colours as keep it small."""
    path = PICTURES / f"{name}.png"
    picture = picture.convert("RGB")
    for colours in (None, 256, 128, 64):
        drawn = picture.quantize(colours, dither=Image.Dither.NONE) if colours else picture
        drawn.save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            break
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes, {colours or 'all'} colours")


def shoot(page: Path, name: str, width: int, height: int, scale: int = 1, start: str = "scrollTo(0, 0)") -> None:
    """Save what a browser of that size shows of a page once the script `start` has run."""
    text = page.read_text(encoding="utf-8")
    for place in (str(page.parents[1]), str(PICTURES.parents[1])):
        text = text.replace(place, HOME).replace(breaking(place), breaking(HOME))
    page.write_text(text, encoding="utf-8")
    with TemporaryDirectory() as folder, browser(Path(folder)) as chromium:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        chromium.command("Emulation.setScrollbarsHidden", hidden=True)
        chromium.command("Emulation.setDeviceMetricsOverride", **metrics)
        chromium.open(page.as_uri())
        chromium.run(
            f"{start}; document.querySelectorAll('img').forEach(i => i.loading = 'eager');"
            "return Promise.all([...document.images].map(i => i.decode()))"
        )
        shot = Path(folder, "shot.png")
        chromium.picture(shot, whole=False)
        save(Image.open(shot), name)


class Runs:
    """The runs that pictures are of, in a folder, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, name: str, command: str, *settings: str) -> Path:
        """Run a command of mirror_pl, and return its output folder."""
        output = self.folder / name
        if output.exists():
            return output
        on_cpu = ["trainer.accelerator=cpu", "benchmark=miniature"] if command in ("eval", "robustness") else []
        run = [sys.executable, "-m", f"mirror_pl.{command}", *settings, *on_cpu, f"output_dir={output}"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        return output

    def report(self) -> Path:
        """The shipped detector on pictures as they are, and on two kinds of perturbed ones."""
        for name, perturbation in (("clean", "null"), ("jpeg", "jpeg_30"), ("blur", "gaussian_blur_0.5")):
            self.of(f"runs/{name}", "eval", f"perturb={perturbation}")
        return self.of("report", "report", str(self.folder / "runs")) / "report.html"

    def suite(self) -> Path:
        return self.of("suite", "robustness", "suite=techjam")


def report_desktop(runs: Runs) -> None:
    shoot(runs.report(), "report-desktop", 1280, 2300)


def report_phone(runs: Runs) -> None:
    shoot(runs.report(), "report-phone", 390, 1100, scale=2, start="document.querySelector('h2').scrollIntoView()")


def gallery(runs: Runs) -> None:
    page = runs.of("gallery", "gallery", str(runs.suite()), "maps=true", "count=6") / "gallery.html"
    shoot(page, "gallery", 1280, 1000)


def robustness(runs: Runs) -> None:
    shoot(runs.suite() / "robustness.html", "robustness", 1280, 1150)


def app(runs: Runs) -> None:
    photograph = miniature_dir() / "photographs/coffee.jpg"
    command = [sys.executable, "-m", "mirror_pl.app", "port=0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as served:
        assert served.stdout is not None
        address = next(found[0] for line in served.stdout if (found := re.search(r"http://\S+/", line)))
        with TemporaryDirectory() as folder, browser(Path(folder)) as chromium:
            chromium.command("Emulation.setScrollbarsHidden", hidden=True)
            chromium.size(960, 1000)
            chromium.open(address)
            chromium.wait(lambda: chromium.run("return document.querySelector('#picture input[type=file]')"), "the field")
            chromium.upload("#picture input[type=file]", photograph)
            chromium.wait_for(photograph.name, "#verdict h2")
            loaded = "return [...document.querySelectorAll('#shown img')].filter(one => one.naturalWidth).length"
            chromium.wait(lambda: chromium.run(loaded) == 4, "the picture and its maps")
            shot = Path(folder, "shot.png")
            chromium.picture(shot)
            save(Image.open(shot), "app")
        served.terminate()


def maps_crops(runs: Runs) -> None:
    picture = Image.open(miniature_dir() / "photographs/chelsea.jpg").convert("RGB")
    maps = load_detector("miniature").maps(picture, policy=CropPolicy("grid5x5"))
    layers = [MapLayer(one.residual_norm, one.crop.box(picture.size)) for one in maps]
    save(draw_map(picture, layers, MAPS["residual_norm"]), "maps-crops")


def maps_planted(runs: Runs) -> None:
    folder = runs.folder / "planted"
    bench = PICTURES.parents[1] / "bench/anomaly_map.py"
    subprocess.run([sys.executable, str(bench), "--folder", str(folder)], check=True, stdout=subprocess.DEVNULL)
    for name, decoder, photograph in (("cat", "transposed", "chelsea"), ("gravel", "variational", "gravel")):
        (found,) = folder.glob(f"{decoder}_{photograph}_*.png")
        save(Image.open(found), f"maps-planted-{name}")


DRAWN: dict[str, Callable[[Runs], None]] = {
    function.__name__: function
    for function in (report_desktop, report_phone, gallery, robustness, app, maps_crops, maps_planted)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", choices=[*DRAWN, []], help="which; all without")
    chosen = parser.parse_args().pictures
    with TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for name in chosen or DRAWN:
            DRAWN[name](runs)


if __name__ == "__main__":
    main()
