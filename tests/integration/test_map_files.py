"""Maps of many pictures in a folder: whatever their names are, and as predict writes them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirror_pl import load_detector
from mirror_pl.config.command import compose
from mirror_pl.detectors import BackboneConfig, CropPolicy, DetectorConfig, HeadConfig, MirrorDetector
from mirror_pl.detectors.scoring import predict_all
from mirror_pl.errors import ConfigError, IncompleteRunError, OutputError
from mirror_pl.images.pictures import PreparedPicture, prepare
from mirror_pl.jobs import maps as map_files
from mirror_pl.jobs import predict as predicting
from mirror_pl.jobs.maps import MapFolder, safe_name

KINDS = ("entropy", "max_weight", "residual_norm")


@pytest.fixture(scope="module")
def detector() -> MirrorDetector:
    return load_detector("miniature")


def write_picture(path: Path, width: int = 80, height: int = 70) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/0_real/000.jpg", "a_0_real_000.jpg"),
        ("../../etc/passwd", "etc_passwd"),
        ("/", "picture"),
        ("..", "picture"),
        ("", "picture"),
        (".hidden.png", "hidden.png"),
        ("C:\\x\\con.png", "C_x_con.png"),
        ("a\nb\x00c\u202egnp.png", "a_b_c_gnp.png"),
        ("照片/一.png", "照片_一.png"),
        ("e\u0301.png", "\u00e9.png"),
        ("<img src=x>?#%2e.png", "img_src_x_2e.png"),
        (os.fsdecode(b"caf\xe9.png"), "caf_xe9.png"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert safe_name(name) == expected


@pytest.mark.parametrize("name", ["x" * 5000, "照" * 5000, "/" * 5000 + "a"])
def test_long_names_fit_any_file_system(name: str, tmp_path: Path) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 160
    (tmp_path / f".{safe}.10000x10000.residual_norm.png.99999999.tmp").touch()


def test_a_folder_of_maps(detector: MirrorDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_files, "PICTURES_A_PAGE", 2)
    file = write_picture(tmp_path / "one.png")
    prepared = prepare(file, detector.spec)
    (prediction,) = predict_all(detector, [prepared])
    hostile = "<img src=x onerror=alert(1)>/../é.png"
    with MapFolder(tmp_path / "maps", detector) as folder:
        first = folder.add(file, "x.png", prepared, prediction)
        folder.add(file, "x.png", prepared)
        folder.add(file, "x.png-2", prepared)
        folder.add(file, "X.PNG", prepared)
        folder.add(file, hostile, prepared, prediction)
        assert folder.add(file, "gone.png", PreparedPicture(None, status="undecodable", reason="<b>gone</b>")) == []
        write_picture(file, 50, 40)
        assert folder.add(file, "changed.png", prepared) == []
    assert [path.name for path in first] == [f"x.png.{kind}.png" for kind in ("residual_norm", "entropy", "max_weight")]
    stems = ["X.PNG-3", "img_src_x_onerror_alert_1_..__\u00e9.png", "x.png", "x.png-2", "x.png-2-2"]
    stems[1] = safe_name(hostile)
    found = {path.name for path in (tmp_path / "maps").iterdir()}
    assert found == {f"{stem}.{kind}.png" for stem in stems for kind in KINDS} | {
        "index.html",
        "index-2.html",
        "index-3.html",
        "index-4.html",
    }
    for path in (tmp_path / "maps").glob("*.png"):
        with Image.open(path) as drawn:
            assert drawn.format == "PNG"
            assert drawn.width == 480
    pages = [
        (tmp_path / "maps" / name).read_text() for name in ("index.html", "index-2.html", "index-3.html", "index-4.html")
    ]
    text = "".join(pages)
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "&lt;b&gt;gone&lt;/b&gt;" in text
    assert "the file has changed" in text
    assert f"p_fake {prediction.p_fake:.3g}" in pages[0]
    assert "Pictures 3 to 4." in pages[1]
    assert re.findall(r'<a href="\./(index[^"]*)">(\w+)', pages[1])[:2] == [
        ("index.html", "Earlier"),
        ("index-3.html", "Further"),
    ]
    assert "Further" not in pages[3]
    sources = set(re.findall(r'src="([^"]*)"', text))
    assert len(sources) == 3 * len(stems)
    assert all(source.startswith("./") for source in sources)


def test_crops_of_several_sizes_have_pictures_of_their_own(detector: MirrorDetector, tmp_path: Path) -> None:
    file = write_picture(tmp_path / "one.jpg", 200, 160)
    with MapFolder(tmp_path / "maps", detector) as folder:
        files = folder.add(file, "one", prepare(file, detector.spec, "multiscale"))
        several = folder.add(file, "two", prepare(file, detector.spec, "five"))
    assert sorted({path.name.split(".")[1] for path in files}) == ["100x80", "200x160", "400x320"]
    assert len(files) == 9
    assert len(several) == 3


def test_where_maps_cannot_be(detector: MirrorDetector, tmp_path: Path) -> None:
    write_picture(tmp_path / "full/one.png")
    with pytest.raises(ConfigError, match="holds something already"):
        MapFolder(tmp_path / "full", detector)
    with pytest.raises(OutputError, match="give another place"):
        MapFolder(tmp_path / "full/one.png/maps", detector)
    backbone = BackboneConfig("dinov3", width=32, depth=1, heads=2, mlp_width=32)
    direct = MirrorDetector(DetectorConfig(backbone, lora=None, memory_bank=None, head=HeadConfig(inputs=("cls",))))
    with pytest.raises(ConfigError, match="maps: this detector has no memory bank"):
        MapFolder(tmp_path / "maps", direct)
    assert not (tmp_path / "maps").exists()


def predict(*arguments: Any) -> None:
    predicting.run(compose("predict", ["device=cpu", "num_workers=0", "batch_size=4", *map(str, arguments)]))


def test_predict_writes_maps(tmp_path: Path, detector: MirrorDetector) -> None:
    for number in range(5):
        write_picture(tmp_path / f"in/{number}.png", 90 + number)
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    given = f"input=[{tmp_path}/in]"
    with pytest.raises(IncompleteRunError):
        predict(given, f"output={tmp_path}/out.jsonl", f"maps={tmp_path}/maps")
    assert len(list((tmp_path / "maps").glob("*.png"))) == 15
    text = (tmp_path / "maps/index.html").read_text()
    assert "6 pictures." in text
    assert "cannot identify the file" in text
    expected = detector.predict(tmp_path / "in/3.png", policy=CropPolicy())
    assert f"p_fake {expected.p_fake:.3g}" in text

    with pytest.raises(IncompleteRunError):
        predict(given, f"output={tmp_path}/plain.jsonl")
    assert (tmp_path / "plain.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes(), "rows do not depend on maps"


def test_predict_says_at_once_what_cannot_be(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/0.png")
    given = f"input=[{tmp_path}/in]"
    with pytest.raises(ConfigError, match=r"maps: .*/in holds something already"):
        predict(given, f"output={tmp_path}/out.jsonl", f"maps={tmp_path}/in")
    with pytest.raises(ConfigError, match="maps and resume"):
        predict(given, f"output={tmp_path}/out.jsonl", f"maps={tmp_path}/maps", "resume=true")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "in"]
