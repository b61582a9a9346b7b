"""What a notebook shows of a detector, a prediction and its maps."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from golden_set import SMALL
from PIL import Image

import mirror_pl
from mirror_pl import explain, load_detector
from mirror_pl.detectors import CropPolicy, MirrorDetector, Prediction
from mirror_pl.images.pictures import as_data_url, as_image

PICTURE = SMALL.data_root / next(iter(SMALL.rows()))["path"]


@pytest.fixture(scope="module")
def detector() -> MirrorDetector:
    return load_detector("miniature")


def images_of(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_the_names_of_the_package_are_all_that_is_listed() -> None:
    assert dir(mirror_pl) == sorted(mirror_pl.__all__)
    assert all(hasattr(mirror_pl, name) for name in mirror_pl.__all__)


def test_a_detector_is_said_in_three_lines(detector: MirrorDetector) -> None:
    first, crops, size = repr(detector).splitlines()
    assert first == "MirrorDetector: mirror/miniature"
    assert "64 px crops, center" in crops
    count = sum(parameter.numel() for parameter in detector.parameters())
    assert size == f"  {count:,} parameters, float32 on cpu, eval mode"


def test_a_prediction_is_said_in_one_line(detector: MirrorDetector, tmp_path: Path) -> None:
    found = detector.predict(PICTURE)
    assert repr(found) == f"Prediction({found.verdict}, p_fake={found.p_fake:.4f})"
    (tmp_path / "x.jpg").write_bytes(b"<script>")
    bad = detector.predict(tmp_path / "x.jpg")
    assert repr(bad) == f"Prediction(no score, undecodable: {bad.reason})"


def test_a_notebook_shows_the_picture_beside_its_score(detector: MirrorDetector) -> None:
    path = PICTURE
    found = detector.predict(path)
    page = found._repr_html_()
    (shown,) = images_of(page)
    assert max(shown.size) <= 256
    assert f"p_fake {found.p_fake:.4f}" in page
    assert found == detector.predict(path.read_bytes()), "what is shown is no part of what is said"


def test_a_picture_is_as_it_was_when_it_has_been_shown(detector: MirrorDetector) -> None:
    image = Image.effect_noise((600, 400), 50).convert("RGB")
    explain(detector, image)._repr_html_()
    assert image.size == (600, 400)


def test_several_pictures_are_not_explained_at_once(detector: MirrorDetector) -> None:
    with pytest.raises(TypeError, match="explain takes one picture, got a list of 2"):
        explain(detector, [PICTURE, PICTURE])  # type: ignore[arg-type]


def test_what_a_file_says_of_itself_is_escaped() -> None:
    page = Prediction(None, None, "undecodable", "<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_explanation_has_the_maps_too(detector: MirrorDetector, tmp_path: Path) -> None:
    path = PICTURE
    explained = explain(detector, path)
    assert explained.prediction == detector.predict(path)
    assert list(explained.maps) == ["Residual norm", "Retrieval entropy", "Largest retrieval weight"]
    assert len(images_of(explained._repr_html_())) == 4
    several = explain(detector, path, policy=CropPolicy("multiscale"))
    assert len(several.maps) > 3, "one for each size of the picture"
    (tmp_path / "x.jpg").write_bytes(b"none")
    assert explain(detector, tmp_path / "x.jpg").maps == {}


def test_an_image_survives_its_data_url() -> None:
    image = as_image(PICTURE)
    (back,) = images_of(f'src="{as_data_url(image)}"')
    assert back.tobytes() == image.tobytes()
