"""What is drawn of a run, and the paths that draw it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from run_folders import Run, images

from mirror_pl.reports import charts
from mirror_pl.reports.gathered_runs import find_runs
from mirror_pl.reports.run_figures import BINS, POINTS, RunFigures, run_figures
from mirror_pl.scores.bootstrap import Estimate
from mirror_pl.scores.reliability import reliability


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
        ("shared.png", "a"),
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
    path = charts.roc_line(2, roc).path
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path)[1:]]
    assert points[0] == (charts.ROC.x(0), charts.ROC.y(0))
    assert points[-1] == (charts.ROC.x(1), charts.ROC.y(1))


def test_a_histogram_is_closed_and_within_its_frame() -> None:
    frame = charts.HISTOGRAM
    reals, fakes = np.zeros(BINS, np.int64), np.arange(BINS)
    reals[0] = 7
    drawn = charts.histogram(reals, fakes)
    for path in (drawn.reals, drawn.fakes):
        assert path.startswith("M")
        assert path.endswith("Z")
        heights = [float(number) for number in re.findall(r"V([\d.]+)", path)]
        assert all(frame.y(1) <= height <= frame.y(0) for height in heights)
    assert min(map(float, re.findall(r"V([\d.]+)", drawn.reals))) == frame.y(1), "the highest bin fills its half"
    nothing = charts.histogram(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))
    assert nothing == charts.Histogram("", "")


def test_empty_bins_are_not_drawn() -> None:
    line = charts.reliability_line(0, reliability(np.array([0, 1]), np.array([0.1, 0.9], np.float32)))
    assert len(line.dots) == 2
    assert "nan" not in line.path
    empty = charts.reliability_line(0, reliability(np.array([], np.int8), np.array([], np.float32)))
    assert (empty.path, empty.dots) == ("", ())


@pytest.mark.parametrize(("lowest", "axis"), [(0.97, (0.5, 1.0)), (0.278, (0.2, 1.0)), (None, (0.5, 1.0))])
def test_strips_hold_all_figures(lowest: float | None, axis: tuple[float, float]) -> None:
    assert charts.axis_of([Estimate(lowest), Estimate(None)]) == axis
    if lowest is None:
        assert charts.bar(Estimate(lowest), axis) is None
    else:
        assert charts.bar(Estimate(1.0, axis[0], 1.0), axis) == charts.Bar(0.0, 100.0, 100.0)
        assert charts.bar(Estimate(axis[0]), axis) == charts.Bar(0.0, 0.0, 0.0)
