"""Published numbers: as printed, with their source."""

from __future__ import annotations

from mirror_pl.benchmarks.published import PublishedNumber, published_for, published_numbers
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES
from mirror_pl.locate import config_dir


def test_as_printed() -> None:
    assert published_for("genimage", "mirror/dinov3_hplus") == (
        PublishedNumber("readme-2026-04", "genimage", "mirror/dinov3_hplus", 0.998),
        PublishedNumber("project-readme", "genimage", "mirror/dinov3_hplus", 0.998),
    )
    assert [n.bal_acc for n in published_for("univfd", "mirror/dinov3_l")] == [0.882, 0.974], "the sources disagree"
    assert published_for("human_aigi", "mirror/dinov2_l") == ()
    assert published_for("miniature", "mirror/miniature") == ()


def test_names_are_ours() -> None:
    benchmarks = {path.stem for path in (config_dir() / "benchmark").glob("*.yaml")}
    assert {n.benchmark for n in published_numbers()} <= benchmarks
    assert {n.detector for n in published_numbers()} - {"B-Free", "DDA"} <= {f"mirror/{name}" for name in KNOWN_BACKBONES}
    assert all(0.5 < n.bal_acc <= 1 for n in published_numbers())


def test_sources_that_disagree_on_dda_are_all_kept() -> None:
    known = {n.source.split(",")[0]: n.bal_acc for n in published_for("evalgen", "DDA")}
    assert known == {"readme-2026-04": 0.966, "project-readme": 0.904, "dda-readme-2026-04-13": 0.972, "dda-issue-15": 0.944}
    measured = published_for("evalgen", "DDA")[-1].source
    assert "b27a31d3" in measured
    own = [n.bal_acc for n in published_numbers() if n.source == "dda-readme-2026-04-13"]
    assert own == [0.917, 0.981, 0.972, 0.901, 0.878, 0.824, 0.909, 0.903, 0.951], "as DDA's README prints them"
