"""Which runs are of one detector, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import Run, images

from mirror_pl.reports.detector_names import latest_runs, name_detectors, short_names
from mirror_pl.reports.gathered_runs import GatheredRun, find_runs

IMAGES = images({"a": (2, 2)})


def gathered(folder: Path, *runs: Run) -> list[GatheredRun]:
    for number, run in enumerate(runs):
        run.write(folder / f"{number:02d}")
    return find_runs([folder])


def labels(folder: Path, *runs: Run) -> list[str]:
    return [detector.label for detector in name_detectors(gathered(folder, *runs))]


def test_a_detector_alone_has_the_short_name(tmp_path: Path) -> None:
    runs = [Run(IMAGES), Run(IMAGES, benchmark="chameleon")]
    assert labels(tmp_path, *runs) == ["mirror/tiny"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/w/first.pth", "/w/second.pth"], ["first", "second"]),
        (["/w/one/best.ckpt", "/w/two/best.ckpt"], ["one/best", "two/best"]),
        (["/w/v1.5", "/w/v1.6"], ["v1.5", "v1.6"]),
    ],
)
def test_weights_are_told_apart_by_the_end_of_their_path(tmp_path: Path, paths: list[str], expected: list[str]) -> None:
    assert labels(tmp_path, *(Run(IMAGES, checkpoint=path) for path in paths)) == [f"mirror/tiny ({e})" for e in expected]


def test_one_path_with_other_weights_is_told_by_hash(tmp_path: Path) -> None:
    runs = [Run(IMAGES, sha256=digit * 64) for digit in "ab"]
    assert labels(tmp_path, *runs) == ["mirror/tiny (aaaaaaaa)", "mirror/tiny (bbbbbbbb)"]


def test_the_same_weights_elsewhere_are_the_same_detector(tmp_path: Path) -> None:
    runs = [Run(IMAGES, checkpoint=f"/{place}/x.pth", sha256="a" * 64) for place in ("one", "two")]
    assert labels(tmp_path, *runs) == ["mirror/tiny"]


def test_detectors_over_the_same_weights_are_told_apart(tmp_path: Path) -> None:
    plain = {"name": "sharpness", "_target_": None, "checkpoint": "x", "merge_lora": True, "size": None}
    runs = [
        Run(IMAGES, sha256="a" * 64, name=name, settings={"detector": {**plain, **options}})
        for name, options in (("A", {}), ("B", {}), ("B", {"gain": 2}), ("B", {"gain": 3}), ("B", {"labels": ["x", "y"]}))
    ]
    assert labels(tmp_path, *runs) == ["A", "B", "B (gain 2)", "B (gain 3)", "B (labels x+y)"]


def test_precision_memory_and_variants_make_another_detector(tmp_path: Path) -> None:
    runs = [
        Run(IMAGES),
        Run(IMAGES, precision="bf16-mixed"),
        Run(IMAGES, memory="c" * 64),
        Run(IMAGES, compat="published"),
        Run(IMAGES, settings={"perturb": ["resize_0.5", "jpeg_70"], "tf32": True}),
        Run(IMAGES, settings={"quantise": "int8"}),
    ]
    named = name_detectors(gathered(tmp_path, *runs))
    assert [detector.label for detector in named] == [
        "mirror/tiny (its own memory, 32-true)",
        "mirror/tiny (its own memory, bf16-mixed)",
        "mirror/tiny (memory cccccccc, 32-true)",
        "mirror/tiny (its own memory, 32-true, published protocol)",
        "mirror/tiny (its own memory, 32-true, tf32, perturb resize_0.5+jpeg_70)",
        "mirror/tiny (its own memory, 32-true, quantise int8)",
    ]
    assert [detector.published_as is None for detector in named] == [False, False, False, False, True, True]


def test_crops_are_named_where_they_are_not_those_of_the_published_evaluation(tmp_path: Path) -> None:
    windows = {"crops": "windows", "aggregate": "mean", "of": "logit"}
    runs = [
        Run(IMAGES, name="B-Free", facts={"protocol": {**windows, "as_published": True}}),
        Run(IMAGES, name="B-Free", facts={"protocol": {**windows, "aggregate": "max", "as_published": False}}),
        Run(IMAGES, checkpoint="/w/fc.pth", name="UnivFD", facts={"backbone": {"path": "/w/clip", "sha256": "d" * 64}}),
        Run(IMAGES, checkpoint="/w/fc.pth", name="UnivFD", facts={"backbone": {"path": "/w/other", "sha256": "e" * 64}}),
    ]
    named = name_detectors(gathered(tmp_path, *runs))
    assert [detector.label for detector in named] == [
        "B-Free",
        "B-Free (crops windows, max of logits)",
        "UnivFD (backbone dddddddd)",
        "UnivFD (backbone eeeeeeee)",
    ]
    assert [detector.published_as for detector in named] == ["B-Free", None, "UnivFD", "UnivFD"]


def test_a_variant_is_named_where_there_is_no_other(tmp_path: Path) -> None:
    assert labels(tmp_path, Run(IMAGES, compat="published")) == ["mirror/tiny (published protocol)"]


def test_of_two_runs_the_one_finished_last_counts(tmp_path: Path) -> None:
    runs = gathered(
        tmp_path,
        Run(IMAGES, finished="2026-11-01T12:00:00+02:00"),
        Run(IMAGES, finished="2026-11-01T10:30:00+00:00"),  # half an hour later
        Run(IMAGES, finished="2026-11-01T09:00:00+00:00"),
        Run(IMAGES, benchmark="chameleon"),
    )
    chosen, passed_over = latest_runs(runs)
    assert {benchmark: run.folder.name for (_, benchmark), run in chosen.items()} == {"wildrf": "01", "chameleon": "03"}
    assert [(run.folder.name, counts.folder.name) for run, counts in passed_over] == [("00", "01"), ("02", "01")]


def test_another_size_of_the_same_weights_is_another_detector(tmp_path: Path) -> None:
    runs = [Run(IMAGES, sha256="a" * 64, settings={"detector": {"size": size}}) for size in (None, {"width": 8, "heads": 3})]
    assert labels(tmp_path, *runs) == ["mirror/tiny", "mirror/tiny (size heads 3 width 8)"]
    assert labels(tmp_path / "alone", runs[1]) == ["mirror/tiny"]


def test_short_names() -> None:
    long = ["mirror/dinov3_hplus (published protocol)", "mirror/dinov3_hplus (other protocol)", "x" * 90]
    short = short_names(["DDA", *long, "mirror/dinov3_…protocol"])
    assert short["DDA"] == "DDA"
    assert [short[name] for name in long] == ["mirror/dinov3_…protocol 2", "mirror/dinov3_…protocol 3", "xxxxxxxxxxxxxx…"]
    assert len(set(short.values())) == 5
    assert short == short_names(list(short)), "the same names, the same short ones"
