"""A calibration's file: read as it was written, refused where damaged, and by whom it may be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import fitted

from mirror_pl.calibration import METHODS, as_text, p_fake_of, path_digests, read_calibration
from mirror_pl.errors import CheckpointError, ConfigError


@pytest.mark.parametrize("method", METHODS)
def test_a_file_gives_the_same_calibration(method: str, tmp_path: Path) -> None:
    calibration = fitted(method)
    path = tmp_path / "calibration.json"
    path.write_text(as_text(calibration))
    found = read_calibration(path)
    assert found == calibration
    np.testing.assert_array_equal(found.fitted_on.images, calibration.fitted_on.images)
    assert as_text(found) == path.read_text()
    raw = np.linspace(-9, 9, 50, dtype=np.float32)
    assert found(raw).tobytes() == calibration(raw).tobytes()
    np.testing.assert_array_equal(found.with_abstention(0.1).verdicts(raw), calibration.with_abstention(0.1).verdicts(raw))


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("format", value="other"), '"format" is not'),
        (_set("version", value=2), "version is 2"),
        (_set("method", value="magic"), "none of none, temperature"),
        (_set("slope", value=-1.0), "slope must be above 0"),
        (_set("slope", value=float("nan")), "no finite number"),
        (_set("offset", value="0"), "no finite number"),
        (_set("offset", value=10**400), "too large"),
        (_set("balanced", value=1), "balanced is of another type"),
        (_set("fitted_on", value=[]), ""),
        (_set("fitted_on", "reals", value=0), "reals is 0"),
        (_set("fitted_on", "images", value="?"), ""),
        (_set("fitted_on", "subsets", value=[3]), "subset is 3"),
        (_set("quantiles", "highest_real", value=[1.0]), "there are 1 and 500 quantiles"),
        (_set("quantiles", "lowest_fake", value=list(range(500, 0, -1))), "lowest_fake is not in order"),
        (_set("quantiles", "lowest_fake", value=[1.0, None] * 250), "lowest_fake is not in order"),
        (lambda content: content.pop("quantiles"), "'quantiles' is missing"),
    ],
)
def test_a_damaged_file_is_refused(change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path) -> None:
    content = json.loads(as_text(fitted()))
    change(content)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"calibration: .*fit it anew") as found:
        read_calibration(path)
    assert words in str(found.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 10**5, "\ud800".encode("utf-8", "surrogatepass")])
def test_what_is_no_such_file_is_refused(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match="calibration: "):
        read_calibration(path)
    with pytest.raises(CheckpointError, match=r"gone\.json cannot be read: No such file"):
        read_calibration(tmp_path / "gone.json")


def test_an_isotonic_file_is_held_to_order(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for key, value in (("probabilities", [0.4, 0.3]), ("logits", [1.0]), ("probabilities", [0.0, 0.5]), ("logits", [])):
        content = json.loads(as_text(fitted("isotonic"))) | {"logits": [1.0, 2.0], "probabilities": [0.1, 0.2]}
        path.write_text(json.dumps(content))
        assert read_calibration(path).probabilities == (0.1, 0.2)
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(CheckpointError, match="fit it anew"):
            read_calibration(path)


def test_it_is_for_its_detector_alone() -> None:
    origin = fitted().fitted_on
    origin.check_detector("mirror/tiny", "0" * 64)
    origin.check_detector("mirror/tiny", "0" * 64, {"crops": "center"})
    with pytest.raises(ConfigError, match="another detector: mirror/tiny, and this one is univfd"):
        origin.check_detector("univfd", "0" * 64)
    with pytest.raises(ConfigError, match=r"another checkpoint: 000.*111"):
        origin.check_detector("mirror/tiny", "1" * 64)
    with pytest.raises(ConfigError, match="another protocol"):
        origin.check_detector("mirror/tiny", "0" * 64, {"crops": "five"})


def test_it_is_for_other_images() -> None:
    origin = fitted().fitted_on
    origin.check_images(path_digests(["set/b/0.png"], "genimage", "/elsewhere"))
    with pytest.raises(ConfigError, match=r"fitted on wildrf \(a\), and 1 of the 2 images here are among its 180"):
        origin.check_images(path_digests(["set/b/0.png", "set/a/7.png"], "genimage", "/elsewhere"))


def test_images_are_told_by_their_path_below_the_root_but_in_folders_of_ones_own() -> None:
    assert path_digests(["a.png"], "wildrf", "/x") == path_digests(["a.png"], "wildrf", "/y/")
    assert path_digests(["a.png"], "folder", "/x") != path_digests(["a.png"], "folder", "/y")
    assert path_digests(["a.png"], "folder", "/x/") == path_digests(["/x/a.png"], "wildrf", "/z")
    assert len(path_digests([], "wildrf", "/x")) == 0


def test_abstention_is_off_until_asked_for() -> None:
    calibration = fitted()
    with pytest.raises(ConfigError, match=r"give abstain=0\.1"):
        calibration.verdicts(np.zeros(1, np.float32))
    with pytest.raises(ConfigError, match=r"abstain=0.001 needs at least 999 reals"):
        calibration.with_abstention(0.001)
    assert calibration.with_abstention(0.1).with_abstention(None) == calibration
    assert replace(calibration, abstain=0.1).description()["abstain"] == 0.1
    json.dumps(calibration.description())


def test_p_fake_is_the_sigmoid() -> None:
    logit = np.array([-1e30, -2, 0, 2, 1e30], np.float32)
    np.testing.assert_array_equal(
        p_fake_of(logit), np.array([0, 1 / (1 + np.exp(2.0)), 0.5, 1 / (1 + np.exp(-2.0)), 1], np.float32)
    )
