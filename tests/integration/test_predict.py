"""``mirror_pl.predict`` end to end: the golden scores, every kind of input, exit codes, and what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from golden_set import SMALL
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from runs import kill_all, start

from mirror_pl import load_detector
from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError, IncompleteRunError, LostProcessError
from mirror_pl.jobs.predict import MOST_SHOWN, run
from mirror_pl.jobs.prediction_progress import Progress
from mirror_pl.prediction import Item, Output
from mirror_pl.prediction.pictures import prepare_item
from mirror_pl.prediction.units import Done
from mirror_pl.store import Store

GOLDEN = SMALL.data_root


class Stopped(BaseException):
    """As sudden as a kill, as far as one can be inside a test."""


def kept(partial: str) -> int:
    """Return how many rows a run on the way has written down, by the names of its parts alone."""
    return Done(Store(Path(partial), None).names()).rows


def quoted(names: list[str]) -> str:
    return "[" + ",".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in names) + "]"


def arguments(inputs: list[str], output: str, *more: str) -> list[str]:
    values = [f"input={quoted(inputs)}", f"output={output}", f"checkpoint={SMALL.checkpoint}", "device=cpu", "batch_size=4"]
    return [*values, "num_workers=0", *more]


def predict(inputs: list[str], output: str, *more: str) -> list[dict[str, Any]]:
    run(compose("predict", arguments(inputs, output, *more)))
    return rows_of(output)


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(output).read_text(encoding="utf-8").splitlines()]


def command(*more: str) -> list[str]:
    return [sys.executable, "-m", "mirror_pl.predict", *more]


def golden_paths() -> list[str]:
    return [str(GOLDEN / row["path"]) for row in SMALL.rows()]


def with_two_bad() -> list[str]:
    Path("bad.png").write_text("no image")
    Path("list.txt").write_text("\n".join([*golden_paths()[:10], "bad.png", "gone.jpg"]))
    return ["list.txt", "bad.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_golden_scores_in_order(workers: int) -> None:
    Path("list.txt").write_text("\n".join(golden_paths()))
    rows = predict(["list.txt"], "out.jsonl", f"num_workers={workers}")
    assert [row["image_path"] for row in rows] == golden_paths()
    for row, golden in zip(rows, SMALL.rows(), strict=True):
        assert row["pred"] == pytest.approx(float(golden["prob_fake"]), abs=1e-5)
        assert row["logit"] == pytest.approx(float(golden["logit_fake"]) - float(golden["logit_real"]), abs=1e-4)
        assert row["entropy"] == pytest.approx(float(golden["attention_entropy"]), abs=1e-4)
        assert row["crops"] == [row["logit"]]
    record = json.loads(Path("out.jsonl.run.json").read_text())
    assert record["pictures"] == {"total": len(rows), "scored": len(rows), "by_status": {"ok": len(rows)}}
    assert record["input"] == ["list.txt"]
    assert record["miniature"] is False
    assert sorted(path.name for path in Path().iterdir()) == ["list.txt", "out.jsonl", "out.jsonl.run.json"]


def test_several_inputs_of_every_kind_in_one_run() -> None:
    folder = GOLDEN / "WildRF/test/facebook"
    with tarfile.open("shard.tar", "w") as shard:
        shard.add(folder / "0_real", "0_real")
    shutil.copytree(folder / "0_real", "in/0_real")
    rows = predict(["in", "shard.tar", "in/0_real/*"], "out.jsonl", "crops=five", "aggregate=median")
    inside = [path for path in (row["image_path"] for row in rows) if path.startswith("shard.tar/")]
    by_path = {row["image_path"]: row for row in rows}
    assert len(inside) == len(list(Path("in/0_real").iterdir())) > 1
    for path in inside:
        alone = by_path[path.replace("shard.tar", "in")]
        assert by_path[path]["logit"] == pytest.approx(alone["logit"], abs=1e-4), "a member of a shard scores as its file"
        assert len(alone["crops"]) == 5
        assert alone["logit"] == pytest.approx(sorted(alone["crops"])[2], abs=1e-5)


def test_equal_files_are_scored_once(capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [*golden_paths()[:6], *golden_paths()[:3]]
    plain = predict(inputs, "plain.jsonl")
    for output in ("out.jsonl", "out"):
        run(compose("predict", arguments(inputs, output, "dedupe=true")))
        assert "Duplicates: 3 pictures equal one before, and are not scored again" in capsys.readouterr().out
    rows = rows_of("out.jsonl")
    assert [{**row, "image_path": ""} for row in rows[6:]] == [{**row, "image_path": ""} for row in rows[:3]]
    for row, one in zip(rows, plain, strict=True):
        assert row["image_path"] == one["image_path"]
        assert row["logit"] == pytest.approx(one["logit"], abs=1e-5)
    assert sorted(path.name for path in Path("out").rglob("*") if path.is_file() and path.suffix != ".parquet") == [
        "_depends_on.json"
    ], "what was needed on the way is gone"


def test_names_as_they_are_and_the_exit_code() -> None:
    """The command itself: names that no setting could hold, on the command line and on standard input."""
    odd = ["a b.jpg", "a=b.jpg", "line\nbreak.jpg", "图.jpg", "./output=x.jpg", "???", "${b}${", "\udcff.jpg"]
    for name in odd:
        shutil.copy(golden_paths()[0], os.fsencode(name))
    given = [*odd[:3], "-", *odd[3:], "output=out.jsonl", f"checkpoint={SMALL.checkpoint}", "device=cpu", "num_workers=1"]
    listed = b"\0".join([*map(os.fsencode, odd), b"nowhere.jpg"])
    done = subprocess.run(command(*given), input=listed, capture_output=True, timeout=240, check=False)
    assert done.returncode == 3, done.stderr.decode()
    assert b"1 of the 17 pictures have no score; the reasons are in out.jsonl" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"no score: nowhere.jpg: FileNotFoundError: No such file or directory" in done.stdout
    rows = rows_of("out.jsonl")
    printed = [*odd[:-1], "\\xff.jpg"]
    assert [row["image_path"] for row in rows] == [*printed[:3], *printed, "nowhere.jpg", *printed[3:]]
    scores = [row["pred"] for row in rows if row["status"] == "ok"]
    assert len(scores) == 16
    assert max(scores) - min(scores) < 1e-5


def test_control_c() -> None:
    """Rows until then are kept, nothing is printed but what to do, and no process stays behind."""
    more = [
        "output=out.jsonl",
        f"checkpoint={SMALL.checkpoint}",
        "device=cpu",
        "num_workers=1",
        "batch_size=1",
        "save_every_s=0",
    ]
    process = subprocess.Popen(command("-", *more), stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(b"".join(os.fsencode(path) + b"\n" for path in golden_paths()[:9]))  # and no end: it waits for more
    process.stdin.flush()
    until = time.monotonic() + 120
    while kept("out.jsonl.partial") < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().replace("\n\n", "\n").splitlines() == [
        "mirror_pl predict: starting",
        f"stopped by SIGINT; go on with: {shlex.join(['python', *command('-', *more)[1:]])} resume=true",
    ]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_nothing_scored() -> None:
    Path("list.txt").write_text("nowhere.jpg\nnot here either.png")
    with pytest.raises(DataError, match=r"none of the 2 pictures has a score; the reasons are in out\.json") as caught:
        run(compose("predict", arguments(["list.txt"], "out.json")))
    assert caught.value.exit_code == 2
    assert json.loads(Path("out.json").read_text()) == [
        {"image_path": "nowhere.jpg", "pred": -1},
        {"image_path": "not here either.png", "pred": -1},
    ]


def test_the_default_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(golden_paths()[0], "a.jpg")
    run(compose("predict", ["input=[a.jpg]", "output=out.json", "num_workers=0"]))
    printed = capsys.readouterr().out
    assert "none for the real world" in printed
    assert "1 pictures: 1 ok" in printed
    ((row),) = json.loads(Path("out.json").read_text())
    assert sorted(row) == ["image_path", "pred"]
    assert sorted(path.name for path in Path().iterdir()) == ["a.jpg", "out.json", "out.json.run.json"]


def test_progress_with_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress.__init__, "__defaults__", ("pictures", None, 0.0))
    Path("list.txt").write_text("\n".join(golden_paths()))
    run(compose("predict", arguments(["list.txt"], "out.json")))
    lines = [line for line in capsys.readouterr().out.splitlines() if " left" in line]
    count = len(golden_paths())
    assert re.fullmatch(rf"{count}/{count} pictures, [\d.]+ a second, 0:00:00 left", lines[-1])


@pytest.mark.parametrize(
    ("inputs", "more", "error", "message"),
    [
        (["nowhere"], [], ConfigError, "input: nowhere does not exist"),
        (["a.jpg"], ["device=cuda:99"], ConfigError, "device=cuda:99"),
        (["a.jpg"], ["precision=half"], ConfigError, "precision must be"),
        (["a.jpg"], ["crops=sixteen"], ConfigError, "crops must be one of"),
        (["a.jpg"], ["batch_size=0"], ConfigError, "batch_size must be"),
        (["a.jpg"], ["max_megapixels=0"], ConfigError, "max_megapixels must be"),
        (["a.jpg"], ["timeout_s=-1"], ConfigError, "timeout_s must be"),
        ([], [], ConfigError, "input: none is named"),
        (["empty"], [], DataError, "there is no picture in empty; nothing is written"),
    ],
)
def test_refused(inputs: list[str], more: list[str], error: type[Exception], message: str) -> None:
    shutil.copy(golden_paths()[0], "a.jpg")
    Path("empty/below").mkdir(parents=True)
    Path("empty/notes.md").touch()
    with pytest.raises(error, match=message):
        predict(inputs, "out.jsonl", *more)
    assert sorted(path.name for path in Path().iterdir()) == ["a.jpg", "empty"]


def test_a_form_that_there_is_not_is_said_at_once() -> None:
    shutil.copy(golden_paths()[0], "a.jpg")
    with pytest.raises(ConfigError, match=r"must end in"):
        predict(["a.jpg"], "out.xlsx")


def test_without_an_output_the_scores_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(golden_paths()[0], "a.jpg")
    Path("b.jpg").write_bytes(b"no picture")
    before = sorted(os.listdir())
    with pytest.raises(IncompleteRunError, match="the reasons are above"):
        run(compose("predict", ["input=[a.jpg,b.jpg]", "checkpoint=miniature", "num_workers=0"]))
    said = capsys.readouterr().out
    (expected,) = load_detector("miniature").predict(["a.jpg"])
    assert re.search(rf"a\.jpg +{expected.p_fake:.4f} +{expected.verdict}", said)
    assert re.search(r"b\.jpg +- +-", said)
    assert "no score: b.jpg: UnidentifiedImageError" in said
    assert sorted(os.listdir()) == before, "nothing is written"


def test_provenance_adds_columns_and_changes_no_score(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("c2pa", reason="needs mirror_pl[provenance]")
    chunks = PngInfo()
    chunks.add_text("Software", "NovelAI")
    with Image.open(next(path for path in golden_paths() if path.endswith(".png"))) as image:
        image.save("a.png", pnginfo=chunks)
        image.save("b.jpg")
    Path("bad.png").write_text("no image")
    inputs = ["a.png", "b.jpg", "bad.png"]
    with pytest.raises(IncompleteRunError):
        predict(inputs, "plain.jsonl")
    for output in ("out.jsonl", "out.csv"):
        with pytest.raises(IncompleteRunError):
            run(compose("predict", arguments(inputs, output, "provenance=true")))
    plain, rows = rows_of("plain.jsonl"), rows_of("out.jsonl")
    assert [row.pop("origin") for row in rows] == ["says_ai", "unknown", None]
    assert [row.pop("origin_detail") for row in rows] == ["PNG text: made with NovelAI", "", None]
    assert rows == plain
    assert "says_ai,PNG text: made with NovelAI" in Path("out.csv").read_text(encoding="utf-8")
    capsys.readouterr()
    run(compose("predict", ["input=[a.png]", "checkpoint=miniature", "num_workers=0", "provenance=true"]))
    assert "says_ai" in capsys.readouterr().out


def test_many_pictures_need_an_output() -> None:
    for number in range(MOST_SHOWN + 1):
        Path(f"{number:02}.jpg").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"output: more than 20 pictures need one; give output=FILE"):
        run(compose("predict", ["input=[.]"]))
    for setting in ("resume=true", "units=0/2", "engine=ray"):
        with pytest.raises(ConfigError, match=r"output: resume, units, engine=ray and - need one"):
            run(compose("predict", ["input=[00.jpg]", setting]))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_stopped_run_ends_as_if_it_had_not_been(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = with_two_bad()
    output = f"out.{form}"
    with pytest.raises(IncompleteRunError, match="3 of the"):
        run(compose("predict", arguments(inputs, f"whole.{form}")))
    add, done = Output.add, 0

    def add_and_stop(self: Output, *given: Any) -> None:
        nonlocal done
        if done == 7:
            done = 0
            raise Stopped
        done += 1
        add(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "add", add_and_stop)
        for count in range(2):
            with pytest.raises(Stopped):
                run(compose("predict", arguments(inputs, output, *["resume=true"] * count)))
        assert kept(f"{output}.partial") == 8, "the first try kept 4 of 7, the second 4 of 7 more"
        for change in ("crops=five", "batch_size=5", "precision=bf16-mixed", "max_megapixels=5"):
            with pytest.raises(ConfigError, match="has changed since it was begun"):
                run(compose("predict", arguments(inputs, output, "resume=true", change)))
        with pytest.raises(ConfigError, match=r"rows 1 to 4 of unit 0 are of other pictures"):
            run(compose("predict", arguments(inputs[::-1], output, "resume=true")))
    with pytest.raises(IncompleteRunError, match="3 of the"):
        run(compose("predict", arguments(inputs, output, "resume=true", "num_workers=1", "timeout_s=60")))
    assert Path(output).read_bytes() == Path(f"whole.{form}").read_bytes()
    assert json.loads(Path(f"{output}.run.json").read_text())["resumed_after"] == 8
    with pytest.raises(IncompleteRunError, match="3 of the"):  # it is complete: it says so, and ends as it did
        run(compose("predict", arguments(inputs, output, "resume=true")))
    with pytest.raises(ConfigError, match="exists already"):
        run(compose("predict", arguments(inputs, output)))


def add_pictures(count: int) -> list[str]:
    Path("in").mkdir()
    names = golden_paths()
    for number in range(count):
        shutil.copy(names[number % len(names)], f"in/{number:05d}{Path(names[number % len(names)]).suffix}")
    next(Path("in").glob("00007.*")).write_text("no image")
    return ["in", f"checkpoint={SMALL.checkpoint}", "device=cpu", "batch_size=2", "num_workers=2"]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out.jsonl", "out"])
def test_shares_at_once_make_the_output_of_one(output: str) -> None:
    """As an array of Slurm starts them: three processes, which know of each other only what is in the store."""
    given = add_pictures(1300)
    subprocess.run(command(*given, f"output=whole{output}"), capture_output=True, check=False)
    shares = [start(command(*given, f"output={output}", f"units={share}/3")) for share in range(3)]
    printed = [process.communicate(timeout=240)[0] for process in shares]
    codes = sorted(process.returncode for process in shares)
    assert codes in ([0, 0, 3], [0, 3, 3], [3, 3, 3]), "one picture has no score: its share says so, and who made the output"
    assert sum("Output: " in text for text in printed) == 1, printed
    if output == "out":
        assert pq.read_table(output).equals(pq.read_table(f"whole{output}"))
    else:
        assert Path(output).read_bytes() == Path(f"whole{output}").read_bytes()


def orphans(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[2]) == group and state[0] != "Z":
            found.append(int(entry.name))
    return found


def killed_after(process: subprocess.Popen[str], partial: str, rows: int) -> bool:
    """Kill the process alone, once so many rows are there; False if it has ended before."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if kept(partial) >= rows:
            process.kill()
        if process.poll() is not None:
            process.communicate()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.005)
    raise AssertionError("no row in time")


def test_a_killed_process_loses_nothing_and_leaves_nobody() -> None:
    given = add_pictures(24)
    process = start(command(*given, "output=out.csv", "save_every_s=0"))
    assert killed_after(process, "out.csv.partial", 4)
    until = time.monotonic() + 10
    while orphans(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert orphans(process.pid) == []
    for output, more in (("out.csv", ["resume=true"]), ("whole.csv", [])):
        with pytest.raises(IncompleteRunError, match="1 of the 24"):
            run(compose("predict", ["input=[in]", *given[1:], f"output={output}", "num_workers=0", *more]))
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert json.loads(Path("out.csv.run.json").read_text())["resumed_after"] >= 4


@pytest.mark.slow
def test_a_suspended_run_blames_no_picture() -> None:
    process = start(command(*add_pictures(100), "output=out.jsonl", "timeout_s=2", "save_every_s=0"))
    while kept("out.jsonl.partial") < 4:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(5)
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate()
    assert process.returncode == 3
    assert [row["status"] for row in rows_of("out.jsonl")].count("ok") == 99


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_change_nothing() -> None:
    given = add_pictures(300)
    subprocess.run(command(*given, "output=whole.jsonl"), capture_output=True, check=False)
    expected = Path("whole.jsonl").read_bytes()
    assert len(expected.splitlines()) == 300
    generator = random.Random(0)
    kills, tries, moments = 0, 0, []
    while kills < 20:
        output, partial = Path(f"out{tries}.jsonl"), f"out{tries}.jsonl.partial"
        tries += 1
        assert tries < 40
        for _ in range(4):
            process = start(command(*given, f"output={output}", "resume=true", "save_every_s=0.2"))
            before = kept(partial)
            while process.poll() is None and kept(partial) <= before:
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 2))
            if process.poll() is None:
                kill_all(process)
                kills += 1
                moments.append(kept(partial))
            else:
                process.communicate()
        done = subprocess.run(
            command(*given, f"output={output}", "resume=true"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 3, done.stderr
        assert output.read_bytes() == expected
        assert not Path(partial).exists()
    print(f"{kills} kills in {tries} runs, after {moments} rows")


def test_a_lost_decoding_process_ends_the_run_which_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["input=[in]", *add_pictures(30)[1:], "output=out.jsonl"]

    def killed_at_20(item: Item, **more: Any) -> Any:
        if "00020" in item.path:
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare_item(item, **more)

    with monkeypatch.context() as patch, pytest.raises(LostProcessError, match=r"ended by SIGKILL at in/00020.*num_workers"):
        patch.setattr("mirror_pl.prediction.engine.prepare_item", killed_at_20)
        run(compose("predict", given))
    assert not Path("out.jsonl").exists()
    with pytest.raises(IncompleteRunError, match="1 of the 30"):
        run(compose("predict", [*given, "resume=true"]))
    assert len(rows_of("out.jsonl")) == 30
