"""Where predictions go: each form says the same, and what was stopped goes on without a row lost or doubled."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mirror_pl.detectors import CropScore, Prediction
from mirror_pl.errors import ConfigError, DataError, OutputError
from mirror_pl.images import Crop
from mirror_pl.prediction import Item, Output, entries, expand, units
from mirror_pl.prediction.inputs import NO_PLACE, Shard
from mirror_pl.prediction.recorder import Recorder

CROP = Crop((9, 9), 0, 0, 9)
FACTS = {"checkpoint": "abc", "detector": {"crop_px": 224}, "versions": {"torch": "2"}}


def prediction(number: int) -> Prediction:
    if number % 5 == 4:
        return Prediction(None, None, "undecodable", 'no "image"; really')
    if number % 7 == 6:
        return Prediction(None, None, "non_finite", "the detector's logit is nan", (9, 9), (CropScore(CROP, math.nan),))
    logit = float(np.float32(0.1 * number - 3))
    crops = (CropScore(CROP, logit), CropScore(CROP, logit))
    status, reason = ("truncated", "cut short") if number % 3 == 2 else ("ok", "")
    return Prediction(
        logit, float(np.float32(1 / (1 + math.exp(-logit)))), status, reason, (9, 9), crops, {"entropy": 0.1 * number}
    )


def items(count: int) -> list[Item]:
    names = ["a b.png", "line\nbreak.png", "图.png", '"q",;.png', "\udcff.png"]
    return [Item.of_file(f"{number}/{names[number % 5]}") for number in range(count)]


def write(output: Path, some: list[Item], *, stop: int | None = None, resume: bool = False, together: int = 4) -> Output:
    """Write rows, up to `stop` of them; the rest of an earlier try with `resume`."""
    file = Output(output, save_every_s=0)
    with file.claimed():
        file.check(resume=resume)
        done = file.resumed
        for done, item in enumerate(file.begin(FACTS, iter(some), together), file.resumed):
            if done == stop:
                return file
            file.add(item, prediction(some.index(replace(item, place=NO_PLACE))))
        assert file.complete({"depends_on": FACTS})
    return file


FORMS = ("out.json", "out.jsonl", "out.csv", "out.PARQUET", "out")


def test_a_name_is_no_formula_in_a_csv() -> None:
    name = "=HYPERLINK(1).png"
    for form in ("out.csv", "out.jsonl"):
        write(Path(form), [Item.of_file(name)])
    with Path("out.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["image_path"], row["logit"], row["crops"]) == (f"'{name}", "-3.0", "-3.0 -3.0")
    assert json.loads(Path("out.jsonl").read_text(encoding="utf-8"))["image_path"] == name, "elsewhere it is the name"


def test_each_form_says_the_same() -> None:
    some = items(40)
    for name in FORMS:
        file = write(Path(name), some)
        assert file.tally.total == 40
        assert file.tally.columns[-1] == "entropy"
        found = sorted(path.name for path in Path().iterdir() if path.name.partition(".run")[0] == name)
        assert found == [name, f"{name}.run.json"]
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    challenge = json.loads(Path("out.json").read_text(encoding="utf-8"))
    with Path("out.csv").open(newline="", encoding="utf-8") as opened:
        table = list(csv.DictReader(opened))
    parquet = pq.read_table("out.PARQUET").to_pylist()
    assert pq.read_table("out").to_pylist() == parquet, "a folder, as any reader of Parquet takes it"
    assert [row["image_path"] for row in lines] == [item.path.replace("\udcff", "\\xff") for item in some]
    for number, (line, short, cells, row) in enumerate(zip(lines, challenge, table, parquet, strict=True)):
        expected = prediction(number)
        assert short == {"image_path": line["image_path"], "pred": -1 if line["pred"] is None else line["pred"]}
        assert line["status"] == cells["status"] == row["status"] == expected.status
        assert line["reason"] == cells["reason"] == row["reason"] == expected.reason
        assert line["image_path"] == cells["image_path"] == row["image_path"]
        for key, value in (("pred", expected.p_fake), ("logit", expected.logit)):
            assert line[key] == (None if value is None else pytest.approx(value, abs=1e-7))
            assert (row[key] is None) == (value is None) == (cells[key] == "")
            assert value is None or np.float32(cells[key]) == np.float32(row[key]) == np.float32(line[key]) == np.float32(
                value
            )
        assert row["entropy"] == (None if line["entropy"] is None else pytest.approx(line["entropy"], rel=1e-6))
        assert cells["entropy"] == str("" if line["entropy"] is None else line["entropy"])
        assert len(line["crops"]) == len(row["crops"]) == len(cells["crops"].split())


def test_no_rows_are_an_empty_form() -> None:
    for name in FORMS:
        write(Path(name), [])
    assert json.loads(Path("out.json").read_text()) == []
    assert Path("out.jsonl").read_text() == ""
    assert Path("out.csv").read_text() == "image_path,pred,logit,status,reason,crops\n"
    assert pq.read_table("out.PARQUET").num_rows == 0


def test_parquet_is_written_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror_pl.prediction.formats.ROW_GROUP", 8)
    write(Path("out.parquet"), items(20))
    file = pq.ParquetFile("out.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)] == [8, 8, 4]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("stops", [(0,), (3,), (4, 9), (17, 17, 19), (20,)])
def test_a_stopped_run_goes_on(name: str, stops: tuple[int, ...]) -> None:
    some = items(20)
    whole, output = Path("whole") / name, Path(name)
    write(whole, some)
    for count, stop in enumerate(stops):
        file = write(output, some, stop=stop, resume=count > 0)
        assert not output.exists() or stop == 20
    if stop < 20:
        file = write(output, some, resume=True)
        assert file.resumed == stop // 4 * 4, "a batch is scored as a whole, for scores depend on it in their last digits"
        assert file.tally.total == 20
    if name == "out":
        assert pq.read_table(output).equals(pq.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()
    assert not Path(f"{name}.partial").exists()


@pytest.mark.parametrize("name", FORMS)
def test_units_shards_and_shares_in_any_order_make_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shares, each stopped and gone on with, against one process; shards of 0, 1 and 30 pictures among the files."""
    monkeypatch.setattr(units, "UNIT", 8)
    for number, count in enumerate((0, 1, 30)):
        with tarfile.open(f"{number}.tar", "w") as shard:
            for member in range(count):
                shard.addfile(tarfile.TarInfo(f"{member:03d}.png"))
    Path("list.txt").write_text("\n".join(f"{number}.png" for number in range(21)))
    inputs = ["0.tar", "list.txt", "1.tar", "2.tar", "list.txt"]

    def run(output: Path, share: tuple[int, int], stop: int | None = None) -> bool:
        file = Output(output, save_every_s=0, share=share)
        with file.claimed():
            file.check(resume=False)
            if file.finished(FACTS):
                return True
            for number, item in enumerate(file.begin(FACTS, entries(inputs), 4)):
                if number == stop:
                    return False
                file.add(item, prediction(len(item.path) + item.place.row))
            return file.complete({"depends_on": FACTS})

    whole, output = Path("whole") / name, Path(name)
    assert run(whole, (0, 1))
    ends = [run(output, (share, 3), stop) for stop in (5, 9, None) for share in (2, 0, 1)]
    assert ends == [False] * 8 + [True], "the last to end makes the output"
    assert run(output, (1, 3)), "it is complete for all of them"
    expected = [item.path for item in expand(inputs)]
    if name == "out":
        assert pq.read_table(output)["image_path"].to_pylist() == expected
        assert pq.read_table(output).equals(pq.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()


def test_going_on_opens_no_part_and_lists_no_shard_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        with tarfile.open(f"{number}.tar", "w") as shard:
            for member in range(5):
                shard.addfile(tarfile.TarInfo(f"{member}.png"))
    listed: list[str] = []
    items_of = Shard.items
    monkeypatch.setattr(Shard, "items", lambda self, *more: listed.append(self.path) or items_of(self, *more))
    monkeypatch.setattr(pq, "ParquetFile", lambda *_, **__: pytest.fail("a part was opened"))
    for stop, expected in ((7, ["0.tar", "1.tar"]), (99, ["1.tar", "2.tar"])):
        listed.clear()
        file = Output(Path("out.csv"), save_every_s=0)
        with file.claimed():
            for number, item in enumerate(file.begin(FACTS, entries(["0.tar", "1.tar", "2.tar"]), 2)):
                if number == stop:
                    break
                file.add(item, prediction(0))
        assert listed == expected
    assert file.resumed == 7, "a whole shard, and a batch of the next"


def test_two_processes_at_one_unit_leave_each_row_once() -> None:
    """A node that was given up may have gone on: parts overlap, and each row is taken from one of them."""
    file, some = Output(Path("out"), save_every_s=0), items(20)
    write(Path("whole.jsonl"), some)
    with file.claimed():
        placed = list(file.begin(FACTS, iter(some), 1))
        for start, end in ((0, 8), (2, 6), (4, 11), (6, 14), (13, 20)):
            one = Recorder(file.store, 1, 3600)
            for item in placed[start:end]:
                one.add(item, prediction(item.place.row))
            one.flush()
        assert len(file.store.names()) == 5
        assert file.complete({"depends_on": FACTS})
    assert pq.read_table("out")["image_path"].to_pylist() == [row["image_path"] for row in lines("whole.jsonl")]


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def test_a_row_that_is_missing_is_not_made_up() -> None:
    file = write(Path("out.csv"), items(20), stop=17)
    (_, second, *_) = file.store.names()
    (file.partial / f"{second}.parquet").unlink()
    write(Path("whole.csv"), items(20))
    file = write(Path("out.csv"), items(20), resume=True)
    assert file.resumed == 4, "what is behind a gap is scored again"
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_a_part_with_other_rows_than_its_name_says_is_named() -> None:
    file = write(Path("out.csv"), items(20), stop=17)
    first, second, *_ = file.store.names()
    shutil.copy(file.partial / f"{first}.parquet", file.partial / f"{second}.parquet")
    file.store.add(first, file.store.read(first).slice(1))
    with pytest.raises(DataError, match=rf"{first}\.parquet holds no scores .*expected 4 rows, got 3"):
        write(Path("out.csv"), items(20), resume=True)


def test_nothing_is_replaced() -> None:
    some, output = items(6), Path("out.csv")
    output.write_text("mine")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"out\.csv exists already; give another one, or move it away"):
            write(output, some, resume=resume)
    assert output.read_text() == "mine"
    output.unlink()
    write(output, some, stop=5)
    with pytest.raises(ConfigError, match=r"go on with resume=true, or remove out\.csv\.partial"):
        write(output, some)
    shutil.rmtree("out.csv.partial")
    Path("out.csv.partial").write_text("something of mine\n")
    with pytest.raises(ConfigError, match="is not what a stopped run leaves"):
        write(output, some, resume=True)


def test_an_output_that_appears_meanwhile_is_kept() -> None:
    file = Output(Path("out.csv"))
    with file.claimed():
        file.check(resume=False)
        for item in file.begin(FACTS, iter(items(3)), 1):
            file.add(item, prediction(0))
        Path("out.csv").write_text("mine")
        with pytest.raises(OutputError, match="written meanwhile"):
            file.complete({"depends_on": FACTS})
    assert Path("out.csv").read_text() == "mine"
    assert Path("out.csv.partial").exists()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({**FACTS, "checkpoint": "def"}, "checkpoint: abc then, def now"),
        ({**FACTS, "detector": {"crop_px": 208}}, "detector.crop_px: 224 then, 208 now"),
        ({"detector": FACTS["detector"], "versions": FACTS["versions"]}, "checkpoint: abc then, none now"),
    ],
)
def test_other_dependencies_are_refused(facts: dict[str, Any], message: str) -> None:
    write(Path("out.csv"), items(10), stop=5)
    before = file_names("out.csv.partial")
    file = Output(Path("out.csv"))
    with file.claimed(), pytest.raises(ConfigError, match=message):
        file.begin(facts, iter(items(10)), 4)
    assert file_names("out.csv.partial") == before, "nothing is lost"
    write(Path("out.csv"), items(10), resume=True)
    with pytest.raises(ConfigError, match=message):
        Output(Path("out.csv")).finished(facts)
    assert Output(Path("out.csv")).finished(FACTS) is not None


def file_names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_other_items_are_refused() -> None:
    write(Path("out.csv"), items(10), stop=7)
    for other, message in (
        (items(10)[1:], r"rows 1 to 4 of unit 0 are of other pictures .* \(1/line\\nbreak.png and what follows\)"),
        (items(3), r"rows 1 to 4 of unit 0 are of other pictures"),
        ([*items(3), Item.of_file("new.png")], "rows 1 to 4 of unit 0 are of other pictures"),
        ([], r"rows 1 to 4 of unit 0 are of other pictures than the input has there now \(nothing\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            write(Path("out.csv"), other, resume=True)
    write(Path("out.csv"), items(10), resume=True)


def test_one_process_at_a_time() -> None:
    code = (
        "import sys; from pathlib import Path; from mirror_pl.prediction.outputs import Output\n"
        "with Output(Path('out.csv')).claimed(): print('taken', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(ConfigError, match=r"another process is writing out\.csv"), Output(Path("out.csv")).claimed():
        pass
    holder.kill()
    holder.communicate()
    write(Path("out.csv"), items(3))


@pytest.mark.parametrize("name", ["out.txt", "out.jsonn", "out.parq"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.json, \.jsonl, \.csv, \.parquet"):
        Output(Path(name))


def test_a_place_that_cannot_be_written() -> None:
    Path("file").touch()
    with pytest.raises(OutputError, match="cannot be written"), Output(Path("file/out.csv")).claimed():
        pass
    with Output(Path("new/folder/out.csv")).claimed():
        assert Path("new/folder").is_dir()


def test_a_stop_keeps_whole_batches() -> None:
    file = Output(Path("out.jsonl"), save_every_s=3600)
    with pytest.raises(ZeroDivisionError), file.claimed():
        for number, item in enumerate(file.begin(FACTS, iter(items(9)), 2)):
            file.add(item, prediction(number))
            assert number < 6 or 1 / 0, "rows 0 to 6 are taken"
    assert file.done().rows == 6
