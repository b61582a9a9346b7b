"""The gallery: which images it shows, what it says of those that it cannot show, and whose maps it draws."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, browser
from PIL import Image
from run_folders import Run
from safetensors.torch import load_file, save_file

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import gallery
from mirror_pl.locate import miniature_dir

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


def gallery_of(*runs: Path, output: str = "out", **settings: Any) -> str:
    given = [f"{key}={value}" for key, value in settings.items()]
    quoted = ",".join(f"'{run}'" for run in runs)
    gallery.run(compose("gallery", [f"runs=[{quoted}]", f"output_dir={output}", *given]))
    return Path(output, "gallery.html").read_text()


def jpeg(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (grey, grey, grey)).save(buffer, "JPEG")
    return buffer.getvalue()


def sections_of(text: str) -> dict[str, list[str]]:
    """The paths below each title."""
    parts = re.split(r"<h3>(.*?)</h3>", text.replace("<wbr>", ""))[1:]
    return {
        title: re.findall(r'<p class="path">(.*?)</p>', body) for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_which_images_are_shown(tmp_path: Path) -> None:
    logits = {"0_real": [-3.0, -2.0, -0.1, 1.0, 5.0], "1_fake": [4.0, 0.2, -0.3, -6.0, None]}
    images = [
        (f"{folder}/{number}.jpg", "a", label, logit)
        for label, (folder, values) in enumerate(logits.items())
        for number, logit in enumerate(values)
    ]
    images.append(("0_real/4.jpg", "b", 0, 5.0))  # a shared real, in two subsets
    run = Run(images, data_root=str(tmp_path / "data")).write(tmp_path / "run")
    for path, _, _, _ in images[:-2]:
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(jpeg(128))
    text = gallery_of(run, count=2)
    assert sections_of(text) == {
        "Fakes taken for real, the surest first": ["1_fake/3.jpg", "1_fake/2.jpg"],
        "Reals taken for fake, the surest first": ["0_real/4.jpg", "0_real/3.jpg"],
        "Least sure, right or wrong": ["0_real/2.jpg", "1_fake/1.jpg"],
        "Fakes decided right, the surest first": ["1_fake/0.jpg", "1_fake/1.jpg"],
        "Reals decided right, the surest first": ["0_real/0.jpg", "0_real/1.jpg"],
    }
    assert "2 of 3 images." in text
    assert "shared real, of 2 subsets" in text
    assert text.count("data:image/jpeg") == 10
    assert "p_fake 0.00247, logit -6" in text
    assert "data:image" not in gallery_of(run, output="named", images="false")
    with pytest.raises(ConfigError, match="out exists already"):
        gallery_of(run)


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / "shard.tar", "w") as shard:
        for name in ("0_real/0.jpg", "1_fake/1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(90))
            shard.addfile(member, io.BytesIO(jpeg(90)))
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "secret.txt").write_text("secret")
    paths = ["shard.tar/0_real/0.jpg", "shard.tar/1_fake/1.jpg", "shard.tar/gone.jpg", "gone.jpg", "broken.jpg"]
    paths += ["secret.txt", f"{HOSTILE}.jpg", "caf\\xe9.jpg", "x" * 400 + ".jpg", "nul\0.jpg"]
    images = [(path, HOSTILE, number % 2, 1.0 + number) for number, path in enumerate(paths)]
    text = gallery_of(Run(images, HOSTILE, HOSTILE, data_root=str(root), checkpoint=HOSTILE).write(tmp_path / "run"))
    assert text.count("data:image/jpeg") == 4, "the two of the shard, each in two places"
    reasons = re.findall(r'<span class="none">(.*?)</span>', text)
    assert len(reasons) == 16
    assert {*reasons} == {"not found", "no image&#39;s suffix", "UnidentifiedImageError: cannot identify the file"}
    assert "<img src=x" not in text
    assert "secret</" not in text


def test_runs_that_are_not_complete(tmp_path: Path) -> None:
    images = [("a.jpg", "a", 0, -1.0), ("b.jpg", "a", 1, 1.0)]
    Run(images).write_incomplete(tmp_path / "runs/stopped")
    with pytest.raises(DataError, match="none is complete"):
        gallery_of(tmp_path / "runs")
    Run(images).write(tmp_path / "runs/whole")
    with pytest.raises(IncompleteRunError, match="1 of 2 runs are not complete"):
        gallery_of(tmp_path / "runs")
    assert "There is none." in Path("out/gallery.html").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"count": 0}, "count must be at least 1"), ({"maps": "true", "images": "false"}, "maps and images")],
)
def test_settings(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        gallery_of(tmp_path, **settings)


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A run of the miniature's detector, from a folder of its own, on a few pictures."""
    shutil.copytree(miniature_dir() / "detector", tmp_path / "detector")
    for label in ("0_real", "1_fake"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (70, 90, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    named = ["benchmark=folder", f"checkpoint={tmp_path}/detector", f"data_root={tmp_path}/data", "num_workers=0"]
    named += [f"output_dir={tmp_path}/run", f"paths.outputs={tmp_path}/outputs", "trainer.accelerator=cpu"]
    evaluation.run(compose("eval", [*named, "crops=five", "~callbacks.progress"]))
    return tmp_path / "run"


def test_maps_are_of_the_run_s_own_detector(evaluated: Path) -> None:
    text = gallery_of(evaluated, maps="true", count=1)
    images = sum(map(len, sections_of(text).values()))
    assert images >= 3
    for title in ("Residual norm", "Retrieval entropy", "Largest retrieval weight"):
        assert text.count(f"<figcaption>{title}</figcaption>") == images
    assert text.count("data:image/jpeg") == 4 * images
    assert re.search(r'aria-label="colours from [\d.]+ to [\d.]+ nats"', text)

    weights = evaluated.parent / "detector/model.safetensors"
    tensors = load_file(weights)
    tensors[min(tensors)] += 1
    save_file(tensors, weights)
    with pytest.raises(ConfigError, match=r"maps: checkpoint is not that of .*run: sha256 .* then"):
        gallery_of(evaluated, output="other", maps="true")
    assert not Path("other").exists()
    assert "Residual norm" not in gallery_of(evaluated, output="other"), "without maps no weights are needed"


def test_a_run_without_settings_has_no_maps(tmp_path: Path) -> None:
    run = Run([("a.jpg", "a", 0, -1.0)]).write(tmp_path / "run")
    with pytest.raises(ConfigError, match="use maps=false"):
        gallery_of(run, maps="true")


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and its driver")
def test_in_a_browser(evaluated: Path, tmp_path: Path) -> None:
    """Checked at the width of a phone and of a desk: nothing sticks out, every picture is there, the console is silent."""
    gallery_of(evaluated, maps="true", count=2)
    with browser(tmp_path / "browser") as page:
        page.open("about:blank")
        page.requests()  # of the tab that it opens with
        for width in (360, 1280):
            page.size(width, 900)
            page.open(Path("out/gallery.html").absolute().as_uri())
            assert page.run("return document.documentElement.scrollWidth") <= width
            loaded = page.run(
                "document.querySelectorAll('img').forEach(i => i.loading = 'eager');"
                "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
            )
            assert len(loaded) > 10
            assert min(loaded) >= 200
        assert page.console() == []
        assert [address for address in page.requests() if not address.startswith("file:")] == []
