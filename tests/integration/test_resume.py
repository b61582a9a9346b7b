"""A run that was stopped goes on: nothing is scored twice, nothing is lost, and the report is the undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import SMALL
from runs import eval_command, kill_all, rank_process, results_of, start, wait_for_parts

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, DataError, OutputError
from mirror_pl.jobs.eval import run
from mirror_pl.modules.detector import DetectorModule
from mirror_pl.scores.parts import PartialScores
from mirror_pl.store import Store


class Stopped(BaseException):
    """As sudden as a kill, as far as one can be inside a test."""


def write_tree(root: Path) -> Path:
    """The golden WildRF with a file that is cut short and one that is no image."""
    shutil.copytree(SMALL.data_root / "WildRF", root / "WildRF")
    facebook = root / "WildRF/test/facebook"
    (facebook / "0_real/zz.jpg").write_text("no image")
    whole = sorted((facebook / "1_fake").glob("*.png"))[0].read_bytes()
    (facebook / "1_fake/zz.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data")


def add_images(tree: Path, count: int) -> None:
    folder = tree / "WildRF/test/reddit/1_fake"
    one = sorted(folder.iterdir())[0]
    for number in range(count):
        os.link(one, folder / f"more{number}{one.suffix}")


def arguments(tree: Path, output: Path, *more: str) -> list[str]:
    return [
        "benchmark=wildrf", f"data_root={tree}", f"checkpoint={SMALL.checkpoint}", f"output_dir={output}",
        "trainer.accelerator=cpu", "num_workers=0", "batch_size=3", "save_every_s=0", "max_bad_fraction=1",
        "data.index_cache=null", *more,
    ]  # fmt: skip


def evaluate(tree: Path, output: Path, *more: str) -> Path:
    run(compose("eval", arguments(tree, output, *more)))
    return output


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, batches: int, error: type[BaseException] = Stopped) -> Iterator[None]:
    """Stop the evaluation inside after so many batches were kept."""
    keep, done = PartialScores.keep, 0

    def keep_and_stop(scores: PartialScores, store: Store, rank: int) -> None:
        nonlocal done
        if done == batches:
            raise error("stopped")
        keep(scores, store, rank)
        done += 1

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(PartialScores, "keep", keep_and_stop)
        yield


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the images of each batch that a detector sees."""
    seen: list[int] = []
    step = DetectorModule.test_step

    def test_step(self: DetectorModule, batch: Any, batch_idx: int) -> Any:
        seen.extend(batch.ids.tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectorModule, "test_step", test_step)
    return seen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return results_of(evaluate(write_tree(folder / "data"), folder / "out"))


@pytest.mark.parametrize("stops", [(0,), (1, 2), (7,), (3, 0, 4)])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    output = tmp_path / "out"
    for count, batches in enumerate(stops):
        with stopped_after(monkeypatch, batches):
            evaluate(tree, output, *(["resume=true"] if count else []))
        assert not (output / "run.json").exists()
    seen = counted(monkeypatch)
    evaluate(tree, output, "resume=true", "num_workers=1", "logger=csv")
    shutil.rmtree(output / "csv")
    assert results_of(output) == undisturbed
    assert not (output / "parts").exists()
    kept = sum(stops) * 3
    facts = json.loads((output / "run.json").read_text())
    assert (facts["resumed_after"] or 0) == min(kept, 23)
    assert len(seen) + kept - (1 if kept > 3 else 0) == 22, "what was scored before is not scored again"
    assert facts["started"] < facts["finished"]


def test_what_the_log_says_counts_all_images(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(tree, tmp_path / "whole", "logger=csv")
    with stopped_after(monkeypatch, 5):
        evaluate(tree, tmp_path / "out")
    evaluate(tree, tmp_path / "out", "resume=true", "logger=csv")
    whole, resumed = ((tmp_path / name / "csv/metrics.csv").read_text() for name in ("whole", "out"))
    assert "test/bal_acc" in whole
    assert resumed == whole


def test_all_scored_but_no_report(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="full"):
        patch.setattr("mirror_pl.reports.run_folder.write_table", lambda *_: (_ for _ in ()).throw(OutputError("full")))
        evaluate(tree, tmp_path / "out")
    assert Store(tmp_path / "out/parts", None).count() == 23
    seen = counted(monkeypatch)
    evaluate(tree, tmp_path / "out", "resume=true")
    assert seen == []
    assert results_of(tmp_path / "out") == undisturbed


def test_resume_begins_where_there_is_nothing_and_leaves_alone_what_is_complete(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = evaluate(tree, tmp_path / "out", "resume=true")
    assert results_of(output) == undisturbed
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    seen = counted(monkeypatch)
    evaluate(tree, output, "resume=true")
    assert "Complete already" in capsys.readouterr().out
    assert seen == []
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    next((tree / "WildRF/test/reddit/1_fake").iterdir()).unlink()
    with pytest.raises(ConfigError, match="has changed since it was started: data"):
        evaluate(tree, output, "resume=true")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch_size=4", "other values of batch_size"),
        ("trainer.precision=bf16-mixed", "other values of trainer.precision"),
        ("compat=published", "other values of compat"),
        ("weights", r"checkpoint: \w{64} then, \w{64} now"),
        ("image", r"data.images.reddit/fake: 4 then, 5 now"),
        ("size", r"data.fingerprint: \w{64} then, \w{64} now"),
        ("recipe", r"detector.preprocess.crop_px: 224 then, 208 now"),
        ("versions", r"versions.torch: 1.0 then, 2"),
    ],
)
def test_other_scores_are_refused(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    checkpoint = tmp_path / "mine.pth"
    shutil.copy(SMALL.checkpoint, checkpoint)
    output, weights = tmp_path / "out", f"checkpoint={checkpoint}"
    with stopped_after(monkeypatch, 2):
        evaluate(tree, output, weights)
    kept = {path.name: path.read_bytes() for path in (output / "parts").iterdir()}
    fakes = tree / "WildRF/test/reddit/1_fake"
    facts = json.loads((output / "parts/depends_on.json").read_text())
    if change == "weights":
        content = torch.load(checkpoint, weights_only=False)
        content["epoch"] = 99
        torch.save(content, checkpoint)
    elif change == "image":
        shutil.copy(next(fakes.iterdir()), fakes / "more.jpg")
    elif change == "size":
        with next(fakes.iterdir()).open("ab") as file:
            file.write(b"x")
    elif change == "recipe":  # as if another version of the code had another one
        facts["facts"]["detector"]["preprocess"]["crop_px"] = 224
        monkeypatch.setattr(
            "mirror_pl.jobs.eval.dependencies",
            lambda *a: (
                (d := dependencies(*a))
                and {**d, "detector": {**d["detector"], "preprocess": {**d["detector"]["preprocess"], "crop_px": 208}}}
            ),
        )
    elif change == "versions":
        facts["facts"]["versions"]["torch"] = "1.0"
        (output / "parts/depends_on.json").write_text(json.dumps(facts))
        kept["depends_on.json"] = (output / "parts/depends_on.json").read_bytes()
    from mirror_pl.jobs.dependencies import dependencies

    with pytest.raises(ConfigError, match=message):
        evaluate(tree, output, weights, "resume=true", *([change] if "=" in change else []))
    assert {path.name: path.read_bytes() for path in (output / "parts").iterdir()} == kept, "nothing is lost"


def test_parts_of_another_try_are_refused(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        with stopped_after(monkeypatch, 2):
            evaluate(tree, tmp_path / name)
    for part in (tmp_path / "one/parts").glob("*.parquet"):
        shutil.copy(part, tmp_path / "two/parts")
    with pytest.raises(DataError, match="belongs to another run"):
        evaluate(tree, tmp_path / "two", "resume=true")


def test_two_processes_do_not_go_on_with_one_run(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    with stopped_after(monkeypatch, 2):
        evaluate(tree, output)
    code = (
        "import sys; from pathlib import Path; from mirror_pl.files import FolderLock; FolderLock(Path(sys.argv[1])).take();"
        "print('taken', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, output / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(ConfigError, match="another process is at work"):
        evaluate(tree, output, "resume=true")
    holder.kill()
    holder.communicate()
    evaluate(tree, output, "resume=true")


def test_the_end_of_a_process_ends_the_run(tree: Path, tmp_path: Path) -> None:
    """The second of two processes is killed: the first says so and ends too; the run can go on, with another number."""
    output = tmp_path / "out"
    more = ["trainer.devices=2", "trainer.strategy=ddp", "batch_size=1"]
    process = start(eval_command(*arguments(tree, output, *more)))
    assert wait_for_parts(process, output, "0001-*.parquet"), process.communicate()[0]
    child = rank_process(process.pid, 1)
    assert child is not None
    os.kill(child, signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "process 1 of 2 was ended by SIGKILL; there is no report" in printed
    assert "resume=true" in printed
    assert not (output / "run.json").exists()
    assert not list(output.glob("*.csv"))
    evaluate(tree, output, "batch_size=1", "resume=true")
    whole = evaluate(tree, tmp_path / "whole", "batch_size=1")
    one, other = results_of(output), results_of(whole)
    assert one["bad_images.csv"] == other["bad_images.csv"]
    assert json.loads(one["metrics.json"])["images"] == json.loads(other["metrics.json"])["images"]
    assert json.loads((output / "run.json").read_text())["resumed_after"] > 0


@pytest.mark.slow
def test_a_polite_stop_keeps_everything(tree: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """SIGTERM, as Slurm sends it: what was scored is kept, even where it was not yet time to."""
    output = tmp_path / "out"
    add_images(tree, 150)
    process = start(eval_command(*arguments(tree, output, "save_every_s=3600", "~callbacks.progress")))
    until = time.monotonic() + 120
    while not (output / "parts/depends_on.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(2.5)  # into the scoring
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert 0 < Store(output / "parts", None).count() < 173


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("ranks", "victim"), [(1, "all"), (2, "rank"), (2, "all")])
def test_kills_at_random_moments_change_nothing(tree: Path, tmp_path: Path, ranks: int, victim: str) -> None:
    """SIGKILL of a rank, or of all, twenty times over several runs."""
    generator = random.Random(f"{ranks}{victim}")
    more = ["batch_size=2", *([f"trainer.devices={ranks}", "trainer.strategy=ddp"] if ranks > 1 else [])]
    add_images(tree, 60)  # so that there is something to kill
    whole = tmp_path / "whole"
    subprocess.run(eval_command(*arguments(tree, whole, *more)), check=True, capture_output=True)
    expected = results_of(whole)
    kills = tries = 0
    while kills < 20:
        output = tmp_path / f"out{tries}"
        tries += 1
        assert tries < 60
        for _ in range(3):
            process = start(eval_command(*arguments(tree, output, *more, "resume=true")))
            if not wait_for_parts(process, output):
                process.communicate()
                break
            time.sleep(generator.uniform(0, 3))
            if process.poll() is not None:
                process.communicate()
                break
            if victim == "all":
                kill_all(process)
                kills += 1
                continue
            target = rank_process(process.pid, generator.randrange(ranks))
            if target is not None:
                os.kill(target, signal.SIGKILL)
                kills += 1
            process.communicate(timeout=60)
            # Killed after it had given its scores away, a process is missed no more.
            assert (process.returncode == 0) == (output / "run.json").exists()
        if not (output / "run.json").exists():
            subprocess.run(eval_command(*arguments(tree, output, *more, "resume=true")), check=True, capture_output=True)
        assert results_of(output) == expected
    print(f"{kills} kills in {tries} runs")


@pytest.mark.slow
def test_a_full_disk(tree: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A real file system of a few pages, which fills up while scores are kept, or while the report is written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    kept = []
    try:
        for pages in (3, 4, 8):
            (disk / "filler").write_bytes(b"x" * (64 * 1024 - pages * 4096))
            command = eval_command(*arguments(tree, disk / "out"))
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 4, done.stderr
            assert "No space left" in done.stderr
            kept.append(Store(disk / "out/parts", None).count())
            (disk / "filler").unlink()
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
            done = subprocess.run([*command, "resume=true"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert json.loads((disk / "out/run.json").read_text())["resumed_after"] == (kept[-1] or None)
            assert results_of(disk / "out") == undisturbed
            shutil.rmtree(disk / "out")
            subprocess.run(["mount", "-o", "remount,size=64k", disk], check=True)
    finally:
        subprocess.run(["umount", disk], check=True)
    print(f"images kept when the disk was full: {kept}")
    assert any(0 < count < 23 for count in kept), kept
    assert kept[-1] == 23
