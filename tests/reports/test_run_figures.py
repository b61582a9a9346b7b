"""What is drawn of a run."""

from __future__ import annotations

from pathlib import Path

from run_folders import Run, images

from mirror_pl.reports.gathered_runs import find_runs
from mirror_pl.reports.run_figures import BINS, POINTS, RunFigures, run_figures


def figures_of(folder: Path, run: Run, worst: int = 3) -> RunFigures:
    run.write(folder / "run")
    (found,) = find_runs([folder])
    return run_figures(found.read(), worst)


def test_the_surest_errors_come_first_and_once(tmp_path: Path) -> None:
    rows = [
        ("right.png", "a", 1, 9.0),
        ("shared.png", "a", 0, 60.0),  # p_fake is 1 for both, to float32
        ("shared.png", "b", 0, 60.0),
        ("surer.png", "a", 0, 70.0),
        ("less.png", "b", 1, -0.5),
        ("least.png", "b", 1, -0.1),
        ("edge.png", "b", 0, 0.0),  # not above 0: decided real
        ("torn.png", "b", 0, None),
    ]
    figures = figures_of(tmp_path, Run(rows))
    assert [(image.path, image.subset) for image in figures.worst] == [
        ("surer.png", "a"),
        ("shared.png", "shared real, of 2 subsets"),
        ("less.png", "b"),
    ]
    assert figures.errors == 4
    assert figures.worst[0].p_fake == 1.0
    assert int(figures.reliability.count.sum()) == 6, "distinct and scored"


def test_no_errors_and_one_class(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, Run(images({"a": (5, 5), "b": (0, 5)}, right=1.0)))
    assert (figures.errors, figures.worst) == (0, ())
    assert figures.subsets[0].roc is not None
    assert figures.subsets[1].roc is None
    assert figures.subsets[1].reals.sum() == 0
    assert figures.subsets[1].fakes.shape == (BINS,)


def test_curves_are_thin(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, Run(images({"a": (900, 900)})))
    roc = figures.subsets[0].roc
    assert roc is not None
    assert len(roc.x) <= POINTS
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
