"""mirror_pl.calibrate: from a run's scores to a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calibrations import logits
from run_folders import Run, images

from mirror_pl.calibration import read_calibration
from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError
from mirror_pl.jobs import calibrate
from mirror_pl.reports.gathered_runs import find_runs
from mirror_pl.scores.conformal import fit_quantiles
from mirror_pl.scores.fit_calibration import fit_parameters


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def drawn(size: int = 60, seed: int = 0, subset: str = "a") -> list[tuple[str, str, int, float | None]]:
    label, logit = logits(size, seed)
    rows = zip(label, logit, strict=True)
    return [(f"set/{subset}/{cls}/{i}.png", subset, int(cls), float(value)) for i, (cls, value) in enumerate(rows)]


def fit(*arguments: str) -> Path:
    calibrate.run(compose("calibrate", ["output=c.json", *arguments]))
    return Path("c.json")


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic", "shift"])
def test_the_file_is_the_fit_on_the_runs_scores(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = drawn()
    Run([*rows, ("set/a/0/torn.png", "a", 0, None)], facts={"protocol": {"crops": "center", "as_published": True}}).write(
        tmp_path / "run"
    )
    found = read_calibration(fit("runs=[run]", f"method={method}"))
    label, logit = logits(60, 0)
    expected = fit_parameters(label, logit, method)
    for name, value in expected.items():
        assert getattr(found, name) == value
    assert found.quantiles == fit_quantiles(label, logit)
    origin = found.fitted_on
    assert (origin.benchmark, origin.subsets, origin.reals, origin.fakes) == ("wildrf", ("a",), 60, 120)
    assert (origin.detector, origin.protocol, origin.data) == ("mirror/tiny", {"crops": "center"}, "f" * 64)
    assert len(origin.images) == 181, "an image without a score belongs to the set"
    printed = capsys.readouterr().out
    assert f"{method} of mirror/tiny on wildrf (a)" in printed
    assert "after, by 5-fold cross-validation" in printed
    if method == "temperature":
        assert f"(a): {1 / found.slope:.4g}\n" in printed
        assert "66.7% of these images are fakes" in printed


def test_a_subset_is_fitted_on_alone_and_shared_reals_once(tmp_path: Path) -> None:
    a, b = drawn(20, 1, "a"), drawn(20, 2, "b")
    shared = [(path, "b", label, value) for path, _, label, value in a if label == 0]
    Run([*a, *b, *shared]).write(tmp_path / "run")
    found = read_calibration(fit("runs=[run]", "subsets=[b]")).fitted_on
    assert (found.subsets, found.reals, found.fakes, len(found.images)) == (("b",), 40, 40, 80)
    Path("c.json").unlink()
    found = read_calibration(fit("runs=[run]")).fitted_on
    assert (found.reals, found.fakes) == (40, 80)


def test_what_cannot_be_fitted_is_refused_and_nothing_written(tmp_path: Path) -> None:
    Run(drawn(20, 1)).write(tmp_path / "run")
    Run(drawn(20, 1), "chameleon").write(tmp_path / "other")
    Run(images({"a": (30, 30)}, right=1.0)).write(tmp_path / "apart")
    for arguments, error, words in (
        (("runs=[run,other]",), ConfigError, "fitted on one run, and there are 2"),
        (("runs=[run]", "subsets=[c]"), ConfigError, "the run has no subset c.* It has: a"),
        (("runs=[run]", "subsets=[]"), ConfigError, "subsets: none is named"),
        (("runs=[run]", "method=beta"), ConfigError, "method must be one of none, temperature"),
        (("runs=[]",), ConfigError, "runs: none is named"),
        (("runs=[apart]",), DataError, "every image is decided right"),
    ):
        with pytest.raises(error, match=words):
            fit(*arguments)
    assert not Path("c.json").exists()
    Path("c.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"c\.json exists already"):
        fit("runs=[run]")
    assert Path("c.json").read_text() == "mine"


def test_a_perturbed_set_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(drawn(), facts={"condition": {"perturb": "jpeg_50", "format_align": None}}).write(tmp_path / "run")
    assert read_calibration(fit("runs=[run]")).fitted_on.benchmark == "wildrf under jpeg_50, format_align=None"
    assert "on wildrf under jpeg_50" in capsys.readouterr().out


def test_a_calibrated_run_is_fitted_by_its_own_logits(tmp_path: Path) -> None:
    rows = drawn()
    Run([(path, subset, label, 3 * value) for path, subset, label, value in rows], raw=[value for *_, value in rows]).write(
        tmp_path / "run"
    )
    (run,) = find_runs([tmp_path])
    assert run.read().column_names[-1] == "raw_logit"
    label, logit = logits(60, 0)
    assert read_calibration(fit("runs=[run]")).slope == fit_parameters(label, logit, "temperature")["slope"]


def test_a_run_that_is_named_is_fitted_on_without_its_further_heads(tmp_path: Path) -> None:
    Run(drawn()).write(tmp_path / "run")
    Run(drawn(seed=1)).write(tmp_path / "run" / "heads" / "1-b")
    for seed, name in enumerate(("run", "run/heads/1-b")):
        found = read_calibration(fit(f"runs=[{name}]"))
        assert found.slope == fit_parameters(*logits(60, seed), "temperature")["slope"]
        Path("c.json").unlink()


def test_a_set_too_small_for_folds_says_that_it_flatters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run([(f"{i}.png", "a", i % 2, value) for i, value in enumerate([-1.0, 2, 0.5, -0.2, -2, 1])]).write(tmp_path / "run")
    fit("runs=[run]")
    assert "on the set fitted on, which flatters" in capsys.readouterr().out
    assert json.loads(Path("c.json").read_text())["quantiles"]["highest_real"].count(None) == 249
    assert np.isfinite(read_calibration(Path("c.json")).slope)
