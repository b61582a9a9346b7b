"""The pages at the widths of a desk, a tablet and a phone: tables scroll, pages do not, and the console is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, browser
from run_folders import Run, images

from mirror_pl.config.command import compose
from mirror_pl.jobs import gallery, report
from mirror_pl.reports.robustness import SuiteResult, write_results
from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.robustness import FIGURES, ConditionScores, Robustness, Shift

LONG = "a_detector_of_a_long_name/dinov3_hplus"


def suite(detector: str) -> SuiteResult:
    rng = np.random.default_rng(len(detector))

    def figures() -> dict[str, Estimate]:
        return {
            name: Estimate(value, value - 0.1, value + 0.1)
            for name, value in zip(FIGURES, rng.uniform(0.1, 0.9, 4).tolist(), strict=True)
        }

    shift = dict.fromkeys(("real", "fake"), Shift(0.5, -1.5, 0.4, 2.5, 0.1))
    conditions = [ConditionScores("clean", "", figures(), {}, {}, 0.5, None, {})]
    for family in ("gaussian_noise", "jpeg", "random_crop", "resize", "a_chain"):
        names = [f"{family}_{level}" for level in (0.02, 0.05, 0.1)] if family != "a_chain" else ["resize_0.5+jpeg_30:80"]
        conditions += [ConditionScores(name, family, figures(), figures(), {}, 0.5, None, shift) for name in names]
    worst = dict.fromkeys(FIGURES, "jpeg_0.1")
    scores = Robustness(tuple(conditions), figures(), figures(), worst, 100, 100, 3, 0.0, None)
    return SuiteResult("small", "Small", "ours", "A benchmark", detector, None, 0.95, 100, scores)


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and its driver")
def test_pages_scroll_one_way(tmp_path: Path) -> None:
    for number in range(10):
        sizes = {f"generator_{subset}": (20, 20) for subset in range(3)}
        one = Run(images(sizes, 0.7, number), checkpoint=f"/a/long/path/to/the_weights_of_{number}.pth", name=LONG)
        one.write(tmp_path / f"runs/{number}")
    for output, runs in (("ten", tmp_path / "runs"), ("one", tmp_path / "runs/0")):
        report.run(compose("report", [f"runs=[{runs}]", "replicates=20", f"output_dir={output}"]))
    gallery.run(compose("gallery", [f"runs=[{tmp_path}/runs/0]", "output_dir=gallery"]))
    Path("suite").mkdir()
    write_results([suite(f"{LONG} ({word})") for word in ("first", "the_second", "third")], Path("suite"))
    pages = ["ten/report.html", "one/report.html", "gallery/gallery.html", "suite/robustness.html"]
    with browser(tmp_path / "browser") as chromium:
        for page in pages:
            for width in (1280, 768, 390):
                chromium.size(width, 900)
                chromium.open(Path(page).absolute().as_uri())
                chromium.run("document.querySelectorAll('details').forEach(one => one.open = true)")
                assert chromium.run("return document.documentElement.scrollWidth") <= width, (page, width)
                cut = chromium.run(
                    "return [...document.querySelectorAll('.scroll:not([tabindex=\"0\"])')]"
                    ".filter(one => one.scrollWidth > one.clientWidth).length"
                )
                assert cut == 0, "what scrolls can be scrolled with keys"
                links = chromium.run("return [...document.querySelectorAll('a[href^=\"./\"]')].map(one => one.href)")
                assert all(Path(link.removeprefix("file://")).exists() for link in links)
        assert chromium.console() == []
