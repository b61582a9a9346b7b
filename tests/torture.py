"""Kills, signals, full disks, damaged files and crowds, in bulk: `make torture` runs all rows and prints the table of docs/reliability.md.

Each row has a seed and a count, and fails as a whole where one of its cases does. ``ARGS='kills signals'`` runs some rows,
``ARGS='--count 5'`` fewer cases of each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hostile_files import mutated
from runs import rank_process, results_of

from mirror_pl.locate import miniature_dir

TEST = miniature_dir() / "test"
CPU = ["trainer.accelerator=cpu", "logger=none", "~callbacks.progress"]
TRAIN = [
    "mirror_pl.train", "backbone=tiny", "augment.crop_px=32", "batch_size=8", "num_workers=1", "phase.epochs=4",
    "save_every_steps=5", *CPU,
]  # fmt: skip
REALS, FAKES = f"data.real=[{TEST}/reals]", f"data.fake=[{TEST}/shuffle,{TEST}/nearest]"
JOBS = {
    "eval": ["mirror_pl.eval", "batch_size=2", "num_workers=1", "save_every_s=0.2", *CPU],
    "eval in two processes": [
        "mirror_pl.eval", "batch_size=2", "num_workers=1", "save_every_s=0.2", "trainer.devices=2", "trainer.strategy=ddp", *CPU,
    ],
    "predict": ["mirror_pl.predict", *([str(TEST)] * 3), "device=cpu", "batch_size=2", "save_every_s=0.2", "num_workers=1"],
    "Phase 1": [*TRAIN, "phase=memory", REALS, "phase.slots=16", "phase.heads=4", "phase.top_k=6"],
    "Phase 2": [*TRAIN, "phase=detector", "detector=direct", REALS, FAKES],
}  # fmt: skip


@dataclass
class Job:
    """A command with a place for its results."""

    name: str
    folder: Path

    @property
    def command(self) -> list[str]:
        where = f"output={self.folder}/out.csv" if self.name == "predict" else f"output_dir={self.folder}/run"
        return [sys.executable, "-m", *JOBS[self.name], where, f"paths.outputs={self.folder}"]

    def stamp(self) -> int:
        """Something that grows as work comes to the disk."""
        places = [
            *self.folder.glob("run/parts/*"),
            *self.folder.glob("run/last.ckpt"),
            *self.folder.glob("out.csv.partial/*"),
        ]
        return sum(place.stat().st_mtime_ns for place in places if place.exists())

    def results(self) -> dict[str, bytes]:
        if self.name == "predict":
            return {"out.csv": (self.folder / "out.csv").read_bytes()}
        if not self.name.startswith("Phase"):
            return results_of(self.folder / "run")
        import torch

        found = {}
        for file in ("last.ckpt", "memory_bank.pth"):
            if (self.folder / "run" / file).exists():
                content = torch.load(self.folder / "run" / file, weights_only=True)
                tensors = content.get("state_dict") or content["model_state_dict"]
                found |= {f"{file}:{name}": tensor.numpy().tobytes() for name, tensor in tensors.items()}
        return found

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self) -> dict[str, bytes]:
        if (self.folder / "run/run.json").exists():  # a training that is complete is not gone on with
            return self.results()
        done = subprocess.run([*self.command, "resume=true"], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return self.results()


def kills(name: str, count: int, seed: int, folder: Path) -> str:
    """SIGKILL of the whole group, or of one process of two, after new work is on disk; equal bytes in the end."""
    rng = random.Random(seed)
    whole = Job(name, folder / "whole")
    whole.folder.mkdir()
    expected = whole.finish()
    done = runs = 0
    while done < count:
        job = Job(name, folder / f"{runs}")
        job.folder.mkdir()
        runs += 1
        for _ in range(5):
            process = job.start("resume=true")
            before, until = job.stamp(), time.monotonic() + 180
            while process.poll() is None and job.stamp() == before and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            if process.poll() is not None:
                break
            victim = rank_process(process.pid, 1) if "two" in name and rng.random() < 0.5 else None
            if victim is None:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(victim, signal.SIGKILL)
            process.communicate(timeout=120)
            done += process.returncode not in (0, None)
            nothing_left(process.pid)
        assert job.finish() == expected, "other bytes than without kills"
        shutil.rmtree(job.folder)
    return f"{done} kills in {runs} runs: equal bytes"


def signals(count: int, seed: int, folder: Path) -> str:
    """Each signal at three moments of an evaluation and a training: code, one line, no process left, and it goes on."""
    rng = random.Random(seed)
    cases = [
        (name, number, moment)
        for name in ("eval", "eval in two processes", "predict", "Phase 2")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        for moment in ("imports", "start", "work")
    ]
    slowest = 0.0
    for place, (name, number, moment) in enumerate(rng.sample(cases, min(count, len(cases)))):
        job = Job(name, folder / f"{place}")
        job.folder.mkdir()
        process = job.start()
        assert process.stderr is not None
        process.stderr.readline()
        if moment == "work":
            while process.poll() is None and not job.stamp():
                time.sleep(0.01)
        time.sleep(rng.uniform(0, {"imports": 1, "start": 6, "work": 0.5}[moment]))
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=120)
        slowest = max(slowest, time.monotonic() - sent)
        what = f"{name}, {number.name}, {moment}"
        assert process.returncode in (128 + number, 0), f"{what}: {process.returncode} {errors}"
        assert "Traceback" not in errors, f"{what}: {errors}"
        nothing_left(process.pid)
        if process.returncode and "go on with: " in errors:
            line = shlex.split(errors.rpartition("go on with: ")[2])
            again = subprocess.run([sys.executable, *line[1:]], capture_output=True, text=True, timeout=600, check=False)
            assert again.returncode == 0, f"{what}: {again.stderr}"
        shutil.rmtree(job.folder)
    return f"{min(count, len(cases))} signals: exit code, one line, nothing left, gone on; slowest end {slowest:.1f} s"


def nothing_left(group: int) -> None:
    until = time.monotonic() + 5
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < until, "a process stayed behind"
        time.sleep(0.05)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def full_disk(count: int, seed: int, folder: Path) -> str:
    """Disks of random small sizes, from a single page on, for each kind of write: exit code 4, and it goes on after more room."""
    rng = random.Random(seed)
    stopped = 0
    for place in range(count):
        name = rng.choice(["eval", "predict", "Phase 1", "Phase 2"])
        with small_disk(folder / f"{place}", rng.choice([4, 8, 16, 32, 64, 128, 256, 512, 1024])) as disk:
            job = Job(name, disk)
            process = job.start()
            _, errors = process.communicate(timeout=300)
            assert process.returncode in (0, 4), f"{name}: {process.returncode} {errors}"
            assert "Traceback" not in errors, f"{name}: {errors}"
            stopped += process.returncode == 4
            if process.returncode:
                assert "No space left" in errors, errors
                subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True, capture_output=True)
                job.finish()
    return f"{count} small disks, {stopped} of them full on the way: exit code 4, then gone on to the end"


def damaged(count: int, seed: int, folder: Path) -> str:
    """Mutated pictures through prediction, and mutated checkpoints: a reason for each, no traceback, no crash."""
    import warnings

    from mirror_pl.detectors import load_detector
    from mirror_pl.errors import MirrorError
    from mirror_pl.images.pictures import prepare
    from mirror_pl.images.spec import PreprocessSpec

    warnings.simplefilter("ignore")
    rng, refused, slowest = random.Random(seed), 0, 0.0
    pictures = count * 4 // 5
    for _, content in mutated(pictures, seed):
        began = time.monotonic()
        refused += prepare(content, PreprocessSpec()).pixels is None
        slowest = max(slowest, time.monotonic() - began)
    golden = Path(__file__).parent / "golden/small/v3_gated/checkpoint-h-cur.pth"
    whole = golden.read_bytes()
    file = folder / "x.pth"
    loaded = 0
    for _ in range(count - pictures):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.2 else content)
        began = time.monotonic()
        try:
            load_detector(file)
            loaded += 1
        except MirrorError:
            refused += 1
        slowest = max(slowest, time.monotonic() - began)
    return f"{count} files: {refused} refused with a reason, the rest read; no other error; slowest {slowest:.1f} s"


def crowd(count: int, seed: int, folder: Path) -> str:
    """Two jobs at once in one folder: one does the work, the other says so, and what comes out is what one would give."""
    rng = random.Random(seed)
    whole = Job("eval", folder / "whole")
    whole.folder.mkdir()
    expected = whole.finish()
    for place in range(count):
        job = Job("eval", folder / f"{place}")
        job.folder.mkdir()
        first = job.start("resume=true")
        time.sleep(rng.uniform(0, 0.5))
        second = job.start("resume=true")
        with ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda process: process.communicate(timeout=300)[1], (first, second)))
        codes = sorted((first.returncode, second.returncode))
        assert codes in ([0, 0], [0, 2]), (codes, ends)  # both, where one began after the other had ended
        assert not any("Traceback" in errors for errors in ends), ends
        assert job.results() == expected
        shutil.rmtree(job.folder)
    return f"{count} pairs: one at work, the other refused, equal bytes"


ROWS: dict[str, tuple[int, int, Callable[[int, int, Path], str]]] = {
    **{
        f"SIGKILL, {name}": (20, seed, lambda count, seed, folder, name=name: kills(name, count, seed, folder))  # type: ignore[misc]
        for seed, name in enumerate(JOBS)
    },
    "signals at three moments": (48, 5, signals),
    "full disk": (16, 6, full_disk),
    "damaged files": (20_000, 7, damaged),
    "two jobs in one folder": (20, 8, crowd),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="parts of the names of the rows to run; none: all")
    parser.add_argument("--count", type=int, help="cases of each row, at most")
    chosen = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="disabled", CUDA_VISIBLE_DEVICES="")
    print("| what | seed | result | seconds |\n| --- | --- | --- | --- |", flush=True)
    failed = 0
    for name, (count, seed, work) in ROWS.items():
        if chosen.rows and not any(part in name for part in chosen.rows):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = work(min(count, chosen.count or count), seed, Path(folder))
            except Exception as error:
                traceback.print_exc()
                result, failed = f"**failed**: {type(error).__name__}: {str(error)[:200]}", failed + 1
        print(f"| {name} | {seed} | {json.dumps(result)[1:-1]} | {time.monotonic() - began:.0f} |", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
