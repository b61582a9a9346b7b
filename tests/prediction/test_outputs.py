"""Where predictions go: each form says the same, and what was stopped goes on without a row lost or doubled."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mirror_pl.detectors import CropScore, Prediction
from mirror_pl.errors import ConfigError, OutputError
from mirror_pl.images import Crop
from mirror_pl.prediction import Item, OutputFile, row_of

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


def write(output: Path, some: list[Item], *, stop: int | None = None, resume: bool = False, together: int = 4) -> OutputFile:
    """Write rows, up to `stop` of them; the rest of an earlier try with `resume`."""
    file = OutputFile(output, save_every_s=0)
    with file.claimed():
        file.check(resume=resume)
        for number, item in enumerate(file.begin(FACTS, iter(some), together), file.resumed):
            if number == stop:
                return file
            file.add(row_of(item, prediction(some.index(item))))
        file.complete({"depends_on": FACTS})
    return file


FORMS = ("out.json", "out.jsonl", "out.csv", "out.PARQUET")


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
        assert sorted(path.name for path in Path().glob(f"*{name}*")) == [name, f"{name}.run.json"]
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    challenge = json.loads(Path("out.json").read_text(encoding="utf-8"))
    with Path("out.csv").open(newline="", encoding="utf-8") as opened:
        table = list(csv.DictReader(opened))
    parquet = pq.read_table("out.PARQUET").to_pylist()
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
        assert row["entropy"] == (None if "entropy" not in line else pytest.approx(line["entropy"], rel=1e-6))
        assert cells["entropy"] == str(line.get("entropy", ""))
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
    write(Path("whole") / name, some)
    output = Path(name)
    for count, stop in enumerate(stops):
        file = write(output, some, stop=stop, resume=count > 0)
        assert not output.exists() or stop == 20
    if stop < 20:
        file = write(output, some, resume=True)
        assert file.resumed == stop // 4 * 4, "a batch is scored as a whole, for scores depend on it in their last digits"
        assert file.tally.total == 20
    assert output.read_bytes() == (Path("whole") / name).read_bytes()
    assert not Path(f"{name}.partial").exists()


def test_any_torn_end_is_passed_over() -> None:
    some, output, partial = items(12), Path("out.jsonl"), Path("out.jsonl.partial")
    write(Path("whole.jsonl"), some)
    write(output, some, stop=11)
    content = partial.read_bytes()
    rng = random.Random(0)
    torn = [content[: rng.randrange(len(content))] for _ in range(40)]
    for cut in [
        b"",
        content[:10],
        *torn,
        content + b'{"image_path": "12',
        content[:-9] + bytes(500),
        content[:-40] + b"\n\n\n",
    ]:
        partial.write_bytes(cut)
        write(output, some, resume=True)
        assert output.read_bytes() == Path("whole.jsonl").read_bytes()
        output.unlink()


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
    Path("out.csv.partial").write_text("something of mine\n")
    with pytest.raises(ConfigError, match="is not what a stopped run leaves"):
        write(output, some, resume=True)


def test_an_output_that_appears_meanwhile_is_kept() -> None:
    file = OutputFile(Path("out.csv"))
    with file.claimed():
        file.check(resume=False)
        for item in file.begin(FACTS, iter(items(3)), 1):
            file.add(row_of(item, prediction(0)))
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
        ({"detector": FACTS["detector"], "versions": FACTS["versions"]}, "checkpoint: abc then, None now"),
    ],
)
def test_other_dependencies_are_refused(facts: dict[str, Any], message: str) -> None:
    write(Path("out.csv"), items(10), stop=5)
    before = Path("out.csv.partial").read_bytes()
    file = OutputFile(Path("out.csv"))
    with file.claimed(), pytest.raises(ConfigError, match=message):
        file.begin(facts, iter(items(10)), 4)
    assert Path("out.csv.partial").read_bytes() == before, "nothing is lost"
    write(Path("out.csv"), items(10), resume=True)
    with pytest.raises(ConfigError, match=message):
        OutputFile(Path("out.csv")).finished(facts)
    assert OutputFile(Path("out.csv")).finished(FACTS) is not None


def test_other_items_are_refused() -> None:
    write(Path("out.csv"), items(10), stop=7)
    for other, message in (
        (items(10)[1:], "row 1 .* is of 0/a b.png, where the input has 1/"),
        (items(5), "row 6 .* where the input has nothing now"),
        ([*items(6)[:5], Item.of_file("new.png")], "where the input has new.png now"),
    ):
        file = OutputFile(Path("out.csv"))
        with file.claimed(), pytest.raises(ConfigError, match=message):
            file.begin(FACTS, iter(other), 4)
    write(Path("out.csv"), items(10), resume=True)


def test_one_process_at_a_time() -> None:
    code = (
        "import sys; from pathlib import Path; from mirror_pl.prediction.outputs import OutputFile\n"
        "with OutputFile(Path('out.csv')).claimed(): print('taken', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(ConfigError, match=r"another process is writing out\.csv"), OutputFile(Path("out.csv")).claimed():
        pass
    holder.kill()
    holder.communicate()
    write(Path("out.csv"), items(3))


@pytest.mark.parametrize("name", ["out", "out.txt", "out.jsonn", "out.parq"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.json, \.jsonl, \.csv, \.parquet"):
        OutputFile(Path(name))


def test_a_place_that_cannot_be_written() -> None:
    Path("file").touch()
    with pytest.raises(OutputError, match="cannot be written"), OutputFile(Path("file/out.csv")).claimed():
        pass
    with OutputFile(Path("new/folder/out.csv")).claimed():
        assert Path("new/folder").is_dir()


def test_rows_are_on_their_way_to_the_disk_at_once() -> None:
    file = OutputFile(Path("out.jsonl"), save_every_s=3600)
    with file.claimed():
        given: Iterator[Item] = file.begin(FACTS, iter(items(3)), 1)
        for number, item in enumerate(given):
            file.add(row_of(item, prediction(number)))
            assert len(Path("out.jsonl.partial").read_bytes().splitlines()) == number + 2
