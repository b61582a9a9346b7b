"""The report, end to end: what is in each file, what is averaged and what is not, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from golden_set import SMALL
from PIL import Image
from run_folders import Run, images

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError
from mirror_pl.jobs.eval import run as evaluate
from mirror_pl.jobs.report import run

SUBSETS = {"a": (30, 30), "b": (20, 40)}
FILES = {
    "report.json",
    "table.csv",
    "metrics.csv",
    "comparisons.csv",
    "leaderboard.csv",
    "report.md",
    "report.tex",
    "report.html",
    "figures",
}


def report(*folders: Path, **settings: Any) -> dict[str, Any]:
    values = {"replicates": 50, "output_dir": "out", **settings}
    given = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    run(compose("report", [f"runs=[{','.join(map(str, folders))}]", *given]))
    return json.loads(Path("out/report.json").read_text())


def rows_of(name: str) -> list[dict[str, str]]:
    with Path("out", name).open(newline="") as file:
        return list(csv.DictReader(file))


def result_of(content: dict[str, Any], benchmark: str, detector: str = "mirror/tiny") -> dict[str, Any]:
    (found,) = [r for r in content["results"] if (r["benchmark"], r["detector"]) == (benchmark, detector)]
    return found


def test_real_runs_agree_with_their_own_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for benchmark in SMALL.benchmarks:
        values = [f"benchmark={benchmark}", f"data_root={SMALL.data_root}", f"checkpoint={SMALL.checkpoint}"]
        evaluate(
            compose("eval", [*values, f"output_dir={tmp_path / benchmark}", "trainer.accelerator=cpu", "num_workers=0"])
        )
    content = report(tmp_path)
    assert {path.name for path in Path("out").iterdir()} == FILES
    for benchmark in SMALL.benchmarks:
        metrics = json.loads((tmp_path / benchmark / "metrics.json").read_text())
        result = result_of(content, benchmark)
        for name, value in metrics["mean"].items():
            assert result["mean"][name]["value"] == pytest.approx(value, abs=1e-12)
        for row, expected in zip(result["subsets"], metrics["subsets"], strict=True):
            assert row["subset"] == expected["subset"]
            assert {n: row["metrics"][n]["value"] for n in expected["metrics"]} == pytest.approx(expected["metrics"])
        assert not result["partial"]
        assert result["mean"]["bal_acc"]["low"] <= result["mean"]["bal_acc"]["value"] <= result["mean"]["bal_acc"]["high"]
    (detector,) = content["detectors"]
    assert detector["label"] == "mirror/tiny"
    assert detector["checkpoint"] == json.loads((tmp_path / "wildrf/run.json").read_text())["checkpoint"]["sha256"]
    wild = [row for row in rows_of("table.csv") if row["row"] == "mean"]
    assert [row["group"] for row in wild] == ["in-the-wild"], "one group: the mean over all would be the same"
    assert float(wild[0]["mirror/tiny"]) == pytest.approx((0.5 + 0.2777777777777778) / 2)
    assert wild[0]["mirror/tiny entered"] == "2/2"
    page = Path("out/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 10, "the worst images are readable"
    assert content["worst"][0]["images"][0]["path"] in page.replace("<wbr>", "")
    assert "Report: out/report.html" in capsys.readouterr().out


def test_detectors_side_by_side(tmp_path: Path) -> None:
    good, bad = "mirror/dinov3_l (good)", "mirror/dinov3_l (bad)"
    for name, right in (("good", 0.9), ("bad", 0.6)):
        for benchmark, group in (("univfd", "standard"), ("genimage", "standard"), ("wildrf", "in-the-wild")):
            seed = len(benchmark) + len(name)
            one = Run(
                images(SUBSETS, right, seed, benchmark),
                benchmark,
                benchmark,
                group,
                f"/w/{name}.pth",
                name="mirror/dinov3_l",
            )
            one.write(tmp_path / f"{benchmark}_{name}")
    content = report(tmp_path)
    assert [b["name"] for b in content["benchmarks"]] == ["genimage", "univfd", "wildrf"], "in the published order"
    assert {d["label"] for d in content["detectors"]} == {good, bad}

    # Published numbers stand beside, one a source.
    published = result_of(content, "univfd", good)["published"]
    assert [(p["source"], p["published"]) for p in published] == [("readme-2026-04", 0.882), ("project-readme", 0.974)]
    assert published[0]["difference"] == pytest.approx(published[0]["measured"] - 0.882)

    # Group means, over benchmarks and over images.
    means = {(m["group"], m["detector"]): m for m in content["means"]}
    assert {group for group, _ in means} == {"standard", "all"}
    standard = means["standard", good]
    assert (standard["entered"], standard["of"]) == (2, 2)
    values = [result_of(content, name, good)["mean"]["bal_acc"]["value"] for name in ("genimage", "univfd")]
    assert standard["mean"]["value"] == pytest.approx(np.mean(values))
    assert standard["mean"]["low"] < standard["mean"]["value"] < standard["mean"]["high"]
    tables = [pq.read_table(tmp_path / f"{name}_good/predictions.parquet") for name in ("genimage", "univfd")]
    logit, label = (np.concatenate([table[c].to_numpy() for table in tables]) for c in ("logit", "label"))
    pooled = np.mean([(logit[label == cls] > 0).mean() if cls else (logit[label == cls] <= 0).mean() for cls in (0, 1)])
    assert standard["pooled"]["value"] == pytest.approx(pooled)
    # Three independent benchmarks: their mean is known better than any of them.
    widths = [
        e["high"] - e["low"]
        for name in ("genimage", "univfd", "wildrf")
        for e in [result_of(content, name, good)["mean"]["bal_acc"]]
    ]
    overall = means["all", good]["mean"]
    assert overall["high"] - overall["low"] < min(widths)

    # Pairs: each benchmark, and all together.
    pairs = {pair["benchmark"]: pair for pair in content["comparisons"]}
    assert set(pairs) == {"genimage", "univfd", "wildrf", "all"}
    assert (pairs["all"]["images"], pairs["all"]["unmatched"]) == (360, 0)
    sign = 1 if pairs["all"]["first"] == good else -1
    assert sign * pairs["all"]["difference"] > 0.1
    assert pairs["all"]["p_value"] < 1e-6
    assert [row["benchmark"] for row in rows_of("comparisons.csv")] == ["genimage", "univfd", "wildrf", "all"]

    # The long form holds every row and metric.
    long = rows_of("metrics.csv")
    assert [row["subset"] for row in long[:4]] == ["a", "b", "MEAN", "POOLED"]
    assert len(long) == 2 * 3 * 4
    assert (long[0]["reals"], long[0]["fakes"], long[0]["unscored"]) == ("30", "30", "0")
    assert float(long[0]["bal_acc_low"]) <= float(long[0]["bal_acc"]) <= float(long[0]["bal_acc_high"])
    assert long[0]["ece"]
    assert "ece_low" not in long[0]

    markdown, tex = Path("out/report.md").read_text(), Path("out/report.tex").read_text()
    assert f"**{100 * values[1]:.1f}** [" in markdown, "the better one is bold"
    assert r"\multicolumn{3}{l}{\emph{In the wild}} \\" in tex
    assert r"mirror/dinov3\_l (good)" in tex
    assert tex.count(r"\textbf{") == 3


def test_a_tie_is_not_bold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two that are printed alike, in four places; a third one that is better is."""
    for name in ("one", "two"):
        Run(images({"a": (200, 200)}, 0.7), checkpoint=f"/w/{name}.pth").write(tmp_path / name)
    report(tmp_path)
    assert 'class="best"' not in Path("out/report.html").read_text()
    assert "**" not in Path("out/report.md").read_text()
    assert "textbf" not in Path("out/report.tex").read_text()
    Run(images({"a": (200, 200)}, 0.9), checkpoint="/w/three.pth").write(tmp_path / "three")
    report(tmp_path, output_dir="more")
    assert Path("more/report.html").read_text().count('class="best"') == 1
    assert Path("more/report.md").read_text().count("**") == 2
    assert Path("more/report.tex").read_text().count("textbf") == 1


def test_what_a_mean_is_not_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes_only = images({"a": (10, 10), "b": (0, 10)})
    unreadable = ("set/a/0_real/x.png", "a", 0, None)
    Run([*fakes_only, unreadable], missing={"c": "not on disk"}).write(tmp_path / "one")
    Run(images({"a": (10, 10)}), "chameleon").write(tmp_path / "two")
    Run(images({"a": (10, 10)}), "chameleon", checkpoint="/weights/two.pth").write(tmp_path / "three")
    content = report(tmp_path)
    result = result_of(content, "wildrf", "mirror/tiny (one)")
    assert result["partial"]
    assert (result["missing_subsets"], result["undefined_subsets"]) == (["c"], ["b"])
    assert result["subsets"][1]["metrics"]["bal_acc"] == {"value": None, "low": None, "high": None}
    assert result["subsets"][0]["unscored"] == 1
    notes = "\n".join(content["notes"])
    assert "† wildrf, mirror/tiny (one): the mean is over 1 of 3 subsets; not on disk: c; without scored images" in notes
    assert "wildrf, mirror/tiny (one): 1 image has no score and is in no figure." in notes
    assert "† In the wild, mirror/tiny (two): the mean is over 1 of 2 benchmarks, without wildrf." in notes
    means = {m["detector"]: m for m in content["means"]}
    assert (means["mirror/tiny (one)"]["entered"], means["mirror/tiny (one)"]["partial"]) == (2, True)
    assert (means["mirror/tiny (two)"]["entered"], means["mirror/tiny (two)"]["partial"]) == (1, False)
    printed = capsys.readouterr().out
    assert "the mean is over 1 of 3 subsets" in printed
    (row,) = [row for row in rows_of("table.csv") if row["benchmark"] == "wildrf"]
    assert row["mirror/tiny (one) entered"] == "1/3"
    assert row["mirror/tiny (two)"] == ""
    (row,) = [row for row in rows_of("metrics.csv") if row["benchmark"] == "wildrf" and row["subset"] == "b"]
    assert (row["bal_acc"], row["bal_acc_low"], row["auc"]) == ("", "", "")
    page, tex = Path("out/report.html").read_text(), Path("out/report.tex").read_text()
    assert 'title="mean over 1 of 3 subsets">†' in page
    assert r"$^\dagger$" in tex


def test_an_interval_without_width_is_explained(tmp_path: Path) -> None:
    Run(images({"a": (10, 10)}, right=1.0)).write(tmp_path / "one")
    assert any("up to about 3 / n" in note for note in report(tmp_path)["notes"])


def test_a_false_positive_rate_that_too_few_reals_cannot_show_is_marked(tmp_path: Path) -> None:
    Run(images({"a": (58, 5), "b": (320, 5)})).write(tmp_path / "one")
    notes = [note for note in report(tmp_path)["notes"] if note.startswith("‡")]
    assert [note.split(" rows")[0] for note in notes] == [
        "‡ TPR@0.1% stands on fewer than 2,995 reals in 3 of 3",
        "‡ TPR@1% stands on fewer than 299 reals in 1 of 3",
        "‡ TPR@5% stands on fewer than 59 reals in 1 of 3",
    ]
    assert "The 378 reals of the largest of these rows allow 0.79 % at best." in notes[0]
    cells = Path("out/report.html").read_text().split("<tbody>")[-2:]
    assert [part.count("‡<small>") for part in cells] == [3 + 1, 1], "subsets, and all images together"


def test_a_calibrated_run_is_a_detector_of_its_own_with_figures_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = images(SUBSETS)
    raw = [value for *_, value in rows if value is not None]
    Run(rows).write(tmp_path / "plain")
    origin = {"benchmark": "chameleon", "subsets": ["ALL"]}
    facts = {"calibrated": {"method": "temperature", "fitted_on": origin, "abstain": None}}
    halved = [(path, subset, label, value / 2) for (path, subset, label, _), value in zip(rows, raw, strict=True)]
    Run(halved, raw=raw, facts=facts).write(tmp_path / "calibrated")
    content = report(tmp_path)
    label = "mirror/tiny (+ temperature of chameleon/ALL)"
    assert [detector["label"] for detector in content["detectors"]] == [label, "mirror/tiny"]
    after, plain = result_of(content, "wildrf", label), result_of(content, "wildrf", "mirror/tiny")
    assert "before_calibration" not in plain
    for name, value in after["before_calibration"].items():
        assert value == pytest.approx(plain["pooled"]["metrics"][name]["value"], abs=1e-7), name
    assert after["pooled"]["metrics"]["nll"]["value"] != pytest.approx(after["before_calibration"]["nll"])
    assert after["mean"]["auc"]["value"] == pytest.approx(plain["mean"]["auc"]["value"]), "ranks stay"
    aurc = {row["detector"]: row["aurc"] for row in content["selective"]}
    assert aurc[label] == pytest.approx(aurc["mirror/tiny"])
    printed, page = capsys.readouterr().out, Path("out/report.html").read_text()
    assert f"{label}: before calibration ECE" in printed
    assert page.count('role="img" aria-label="Reliability diagram') == 3
    assert "Before and after calibration" in Path("out/report.md").read_text()
    assert 'aria-label="Risk-coverage curves, wildrf"' in page


def test_an_incomplete_run_is_shown_and_never_averaged(tmp_path: Path) -> None:
    Run(images(SUBSETS)).write(tmp_path / "whole")
    stopped = Run(images(SUBSETS), "chameleon", "Chameleon").write_incomplete(tmp_path / "stopped")
    with pytest.raises(IncompleteRunError, match=r"1 of 2 runs are not complete.*stopped.*resume=true"):
        report(tmp_path)
    assert {path.name for path in Path("out").iterdir()} == FILES
    content = json.loads(Path("out/report.json").read_text())
    assert [run["folder"] for run in content["incomplete"]] == [str(stopped)]
    assert [b["name"] for b in content["benchmarks"]] == ["wildrf"]
    assert [row["row"] for row in rows_of("table.csv")] == ["benchmark", "incomplete"]
    assert "Not complete, and in no mean" in Path("out/report.html").read_text()
    assert "Chameleon: incomplete" in Path("out/report.md").read_text()
    with pytest.raises(DataError, match="none is complete"):
        report(stopped, output_dir="other")
    assert not Path("other").exists()


def test_of_two_runs_the_later_counts(tmp_path: Path) -> None:
    Run(images({"a": (10, 10)}, right=1.0)).write(tmp_path / "later")
    Run(images({"a": (10, 10)}, right=0.5), finished="2026-10-01T10:00:00+00:00").write(tmp_path / "earlier")
    content = report(tmp_path)
    assert result_of(content, "wildrf")["mean"]["bal_acc"]["value"] == 1.0
    assert any("was run on wildrf more than once" in note and "earlier does not." in note for note in content["notes"])


def test_a_threshold_is_never_judged_on_what_it_was_fitted_on(tmp_path: Path) -> None:
    def shifted(root: str, shared: bool) -> list[tuple[str, str, int, float | None]]:
        """Logits that a threshold of 2 tells apart, and 0 does not."""
        return [
            (
                f"{root}/{'reals' if shared and not label else subset}/{label}_{n}.png",
                subset,
                label,
                1.0 + 2 * label + n / 100,
            )
            for subset in ("a", "b")
            for label in (0, 1)
            for n in range(10)
        ]

    Run(shifted("wild", shared=True)).write(tmp_path / "shared")
    Run(shifted("cham", shared=False), "chameleon").write(tmp_path / "other")
    # The same files, seen from the folder above.
    above = [(f"data/{path}", *rest) for path, *rest in shifted("wild", shared=True)]
    Run(above, "univfd", data_root="/").write(tmp_path / "again")
    Run(shifted("else", shared=False), "genimage", checkpoint="/weights/two.pth").write(tmp_path / "without")
    one, two = "mirror/tiny (one)", "mirror/tiny (two)"

    content = report(tmp_path, threshold_from="wildrf/a")
    assert 1.1 < content["thresholds"][one]["logit"] < 3
    assert content["thresholds"][one]["bal_acc"] == 1.0
    assert result_of(content, "chameleon", one)["at_threshold"] == 1.0
    assert result_of(content, "chameleon", one)["mean"]["bal_acc"]["value"] == 0.5
    for benchmark in ("wildrf", "univfd"):  # b shares its reals with a
        assert result_of(content, benchmark, one)["at_threshold"] is None
        assert [row["at_threshold"] for row in result_of(content, benchmark, one)["subsets"]] == [None, None]
    assert two not in content["thresholds"]
    assert any("mirror/tiny (two) was not run on wildrf" in note for note in content["notes"])
    assert "At a threshold fitted on wildrf/a" in Path("out/report.md").read_text()
    rows = {row["benchmark"]: row for row in rows_of("table.csv")}
    assert (rows["chameleon"][f"{one} at threshold"], rows["wildrf"][f"{one} at threshold"]) == ("1.0", "")

    content = report(tmp_path / "other", threshold_from="chameleon/a", output_dir="second")
    content = json.loads(Path("second/report.json").read_text())
    subsets = result_of(content, "chameleon")["subsets"]
    assert [row["at_threshold"] for row in subsets] == [None, 1.0], "b shares nothing with a here"
    assert result_of(content, "chameleon")["at_threshold"] is None, "but the benchmark does"

    with pytest.raises(ConfigError, match=r"threshold_from: no run on wildfr.* Did you mean wildrf\?"):
        report(tmp_path, threshold_from="wildfr", output_dir="third")
    with pytest.raises(ConfigError, match=r"threshold_from: wildrf has no subset c in .*It has: a, b"):
        report(tmp_path, threshold_from="wildrf/c", output_dir="third")


def test_a_set_of_one_class_fits_no_threshold(tmp_path: Path) -> None:
    Run(images({"a": (0, 10)})).write(tmp_path / "one")
    content = report(tmp_path, threshold_from="wildrf")
    assert content["thresholds"] == {}
    assert any("has no fitted threshold: " in note for note in content["notes"])


def test_chosen_detectors_are_compared(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        Run(images({"a": (9, 9)}), checkpoint=f"/w/{name}.pth").write(tmp_path / name)
    content = report(tmp_path, compare="['mirror/tiny (three)','mirror/tiny (one)']")
    assert [(p["first"], p["second"]) for p in content["comparisons"]] == [("mirror/tiny (three)", "mirror/tiny (one)")]
    assert content["comparisons"][0]["p_value"] == 1
    with pytest.raises(ConfigError, match=r"no detector mirror/tiny \(thre\)\. Did you mean mirror/tiny \(three\)\?"):
        report(tmp_path, compare="['mirror/tiny (thre)','mirror/tiny (one)']", output_dir="other")


def test_other_files_of_one_benchmark_are_noticed(tmp_path: Path) -> None:
    Run(images({"a": (9, 9)})).write(tmp_path / "one")
    Run(images({"a": (9, 12)}), checkpoint="/w/two.pth", fingerprint="e" * 64).write(tmp_path / "two")
    content = report(tmp_path)
    assert any("not run on the same files" in note for note in content["notes"])
    assert (content["comparisons"][0]["images"], content["comparisons"][0]["unmatched"]) == (18, 3)


def test_pictures_that_cannot_be_shown_say_why(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "shards").mkdir(parents=True)
    (root / "torn.png").write_text("no image")
    Image.new("RGB", (400, 300), "red").save(root / "good.png")
    with tarfile.open(root / "shards/x.tar", "w") as shard:
        shard.add(root / "good.png", "inner/a.png")
    Image.new("1", (8000, 8000)).save(root / "large.png")
    paths = [
        "shards/x.tar/inner/a.png",
        "shards/x.tar/inner/b.png",
        "torn.png",
        "gone.png",
        "good.png",
        "large.png",
        "a.txt",
    ]
    Run([(path, "a", 0, 3.0 + n) for n, path in enumerate(paths)], data_root=str(root)).write(tmp_path / "run")
    report(tmp_path / "run")
    page = Path("out/report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert page.count(">not found<") == 2
    for reason in ("UnidentifiedImageError: cannot identify the file", "a large image", "no image&#39;s suffix"):
        assert f">{reason}<" in page
    report(tmp_path / "run", images="false", output_dir="bare")
    assert "<img" not in Path("bare/report.html").read_text()
    report(tmp_path / "run", worst=0, output_dir="none")
    assert "Wrong and sure" not in Path("none/report.html").read_text()


def test_nothing_is_overwritten_and_values_are_checked(tmp_path: Path) -> None:
    Run(images({"a": (3, 3)})).write(tmp_path / "one")
    report(tmp_path)
    with pytest.raises(ConfigError, match="out exists already"):
        report(tmp_path)
    for key, value in {"level": 1, "replicates": 0, "seed": -1, "worst": -1, "compare": "[one]"}.items():
        with pytest.raises(ConfigError, match=f"^{key} must"):
            report(tmp_path, **{"output_dir": "other", key: value})
    with pytest.raises(ConfigError, match="runs: none is named"):
        report()
    assert not Path("other").exists()


def test_as_a_user_starts_it(tmp_path: Path) -> None:
    Run(images(SUBSETS)).write(tmp_path / "a=b/one, two")
    Run(images(SUBSETS)).write_incomplete(tmp_path / "stopped")
    command = [sys.executable, "-m", "mirror_pl.report", str(tmp_path / "a=b"), str(tmp_path / "stopped"), "replicates=20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, "one run is not complete"
    assert "error: 1 of 2 runs are not complete" in done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = Path("outputs/report").iterdir()
    assert {path.name for path in folder.iterdir()} == FILES
    assert f"Report: {folder}" in done.stdout


def lab(tmp_path: Path, name: str, right: float = 0.8) -> Path:
    """Report a run of its own, and hand its leaderboard on under another name."""
    folder = Run(images(SUBSETS, right)).write(tmp_path / name)
    report(folder)
    file = Path("out/leaderboard.csv").rename(f"{name}.csv")
    shutil.rmtree("out")
    return file


def test_the_leaderboard_says_what_a_row_rests_on(tmp_path: Path) -> None:
    facts = {
        "versions": {"mirror_pl": "0.2"},
        "revision": "c" * 40,
        "backbone": {"path": "/b", "sha256": "b" * 64},
        "protocol": {"crops": "five", "aggregate": "mean", "of": "logit", "as_published": False},
    }
    settings = {"perturb": ["jpeg_50"], "tf32": True}
    Run(images(SUBSETS), facts=facts, settings=settings, precision="bf16-mixed").write(tmp_path / "one")
    content = report(tmp_path)
    (row,) = rows_of("leaderboard.csv")
    mean = result_of(content, "wildrf", content["detectors"][0]["label"])["mean"]["bal_acc"]
    assert [float(row[name]) for name in ("bal_acc", "low", "high")] == [mean["value"], mean["low"], mean["high"]]
    assert row["detector"] == "mirror/tiny"
    assert row["images"] == "120", "of two subsets with 60 each"
    assert (row["subsets"], row["version"], row["revision"]) == ("2/2", "0.2", "c" * 40)
    assert (row["checkpoint_sha256"], row["backbone_sha256"]) == (content["detectors"][0]["checkpoint"], "b" * 64)
    assert row["data_fingerprint"] == "f" * 64
    assert row["recipe"] == "precision bf16-mixed; crops five; mean of logits; tf32; perturb jpeg_50"
    assert row["repeat"] == f"python -m mirror_pl.eval repeat={tmp_path / 'one'}"
    assert (row["source"], row["mark"]) == (str(tmp_path / "one"), "")


def test_equal_claims_of_labs_are_one_row_and_others_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same, other = lab(tmp_path, "same"), lab(tmp_path, "other", right=0.6)
    mine = Run(images(SUBSETS)).write(tmp_path / "mine")
    content = report(mine, same, other)
    rows = rows_of("leaderboard.csv")
    assert [row["mark"] for row in rows] == ["conflict", "conflict"]
    assert [row["source"] for row in rows] == [f"{mine} | same.csv: {tmp_path / 'same'}", f"other.csv: {tmp_path / 'other'}"]
    assert float(rows[0]["bal_acc"]) > float(rows[1]["bal_acc"])
    assert "2 rows of out/leaderboard.csv contradict" in " ".join(capsys.readouterr().out.split())
    assert len(content["results"]) == 1, "the other files are of the run folders"


def test_another_calibration_is_another_claim(tmp_path: Path) -> None:
    origin = {"benchmark": "wildrf", "subsets": ["a", "b"], "reals": 50, "fakes": 70, "checkpoint": "x", "predictions": "y"}
    said = {"method": "temperature", "fitted_on": origin, "abstain": None}
    for name, right, digest in (("one", 0.8, "a" * 64), ("two", 0.6, "b" * 64)):
        facts = {"calibrated": said, "calibration": {"path": "c.json", "sha256": digest}}
        report(Run(images(SUBSETS, right), facts=facts).write(tmp_path / name))
        Path("out/leaderboard.csv").rename(f"{name}.csv")
        shutil.rmtree("out")
    report(tmp_path / "one", Path("two.csv"))
    rows = rows_of("leaderboard.csv")
    assert [row["recipe"].rpartition("; ")[2] for row in rows] == ["calibration aaaaaaaa", "calibration bbbbbbbb"]
    assert [row["mark"] for row in rows] == ["", ""]


def test_another_precision_is_another_claim(tmp_path: Path) -> None:
    other = lab(tmp_path, "other", right=0.6)
    report(Run(images(SUBSETS), precision="bf16-mixed").write(tmp_path / "mine"), other)
    assert [row["mark"] for row in rows_of("leaderboard.csv")] == ["", ""]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bal_acc,low", "accuracy,low", "columns detector, benchmark, accuracy"),
        ("wildrf,0.", "wildrf,7.", r"line 2: bal_acc must be a fraction from 0 to 1, or empty, got '7\."),
        (",120,", ",many,", "line 2: images must be a whole number, got 'many'"),
        (",120,", ",", "line 2: 17 columns, expected 18"),
    ],
)
def test_a_file_that_is_no_leaderboard_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    file = lab(tmp_path, "other")
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        report(tmp_path / "other", file)
    assert not Path("out").exists()
