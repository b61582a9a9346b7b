"""A threshold's set of images is known by their whole paths."""

from __future__ import annotations

from pathlib import Path

from run_folders import Run

from mirror_pl.reports.gathered_runs import find_runs
from mirror_pl.reports.measure import apply_to, fit_on


def test_a_real_that_a_user_named_elsewhere_counts_as_shared(tmp_path: Path) -> None:
    fakes = [("f/1.png", "a", 1, 3.0), ("g/1.png", "b", 1, 3.0)]
    Run([("/mine/1.png", "a", 0, 1.0), fakes[0], ("/mine/1.png", "b", 0, 1.0), fakes[1]]).write(tmp_path / "one")
    (run,) = find_runs([tmp_path])
    assert apply_to(fit_on(run, "a"), run, run.read()) == {"a": None, "b": None}


def test_an_image_without_a_score_belongs_to_the_set(tmp_path: Path) -> None:
    torn = ("x/torn.png", "b", 0, 1.0)
    Run([("f/0.png", "a", 0, 1.0), ("f/1.png", "a", 1, 3.0), ("x/torn.png", "a", 0, None)]).write(tmp_path / "one")
    Run([torn, ("g/1.png", "b", 1, 3.0)], "chameleon").write(tmp_path / "two")
    one, two = sorted(find_runs([tmp_path]), key=lambda run: run.folder.name)
    threshold = fit_on(one, None)
    assert (threshold.fitted.logit, threshold.fitted.reals) == (2.0, 1)
    assert apply_to(threshold, two, two.read()) == {"b": None}
