"""On a Ray cluster: the result of one machine, whatever is killed meanwhile."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from flat_detector import FlatDetector
from PIL import Image

from mirror_pl.detectors import CropPolicy, Prediction
from mirror_pl.errors import ConfigError, LostProcessError
from mirror_pl.images import Limits
from mirror_pl.prediction import Item, Output, entries, score
from mirror_pl.prediction.on_ray import UnitScorer, Work, connected, packed, room_for
from mirror_pl.prediction.units import Done
from mirror_pl.store import Store

pytest.importorskip("ray.data", reason="mirror_pl[ray] is not installed")

DRIVER = Path(__file__).parents[1] / "ray_driver.py"


def write_shards(folder: Path, shards: int, members: int, poison: tuple[int, int] | None = None) -> list[str]:
    """Write tars of small pictures; the member `poison`, of a shard, ends whoever scores it."""
    folder.mkdir()
    rng, pictures = np.random.default_rng(0), []
    for _ in range(50):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 100, (16, 16, 3), np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(buffer, "PNG")
    for number in range(shards):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as tar:
            for member in range(members):
                content = buffer.getvalue() if poison == (number, member) else pictures[(number + member) % 50]
                info = tarfile.TarInfo(f"{member:04d}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return [str(folder / f"{number:03d}.tar") for number in range(shards)]


def driver(address: str, output: Path, pause_s: float, shards: list[str]) -> subprocess.Popen[str]:
    given = [sys.executable, str(DRIVER), address, str(output), str(pause_s), *shards]
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of two CPUs."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path, str(DRIVER.parent)])
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    found.add_node(num_cpus=2)
    yield found
    found.shutdown()


class LosingScorer(UnitScorer):
    """Is lost at the batch that begins with a row, as often as told: what decodes is ended by the system."""

    lost_at, losses = 16, 0

    def _predictions(self, items: Iterator[Item]) -> Iterator[tuple[Item, Prediction]]:
        for item, prediction in super()._predictions(items):
            if item.place.row == self.lost_at and self.losses:
                self.losses -= 1
                raise LostProcessError("ended", -9)
            yield item, prediction


@pytest.mark.parametrize(("losses", "aside"), [(0, 0), (2, 0), (3, 16)])
def test_an_actor_scores_a_unit_as_one_machine_does(tmp_path: Path, losses: int, aside: int) -> None:
    """Without Ray: a unit is tried again where it was lost, and a batch at which it was three times is set aside."""
    shards = write_shards(tmp_path / "in", 2, 36)
    whole = Output(tmp_path / "whole.jsonl")
    with whole.claimed():
        for item, prediction in score(whole.begin({}, entries(shards), 16), FlatDetector(), batch_size=16):
            whole.add(item, prediction)
        assert whole.complete({})
    file = Output(tmp_path / "out.jsonl")
    with file.claimed():
        units = [packed(unit, here) for unit, here in file.undone({}, entries(shards), 16)]
        work = Work(FlatDetector, file.store, CropPolicy(), 16, 0, "32-true", Limits(), False, 3600, "cpu")
        scorer = LosingScorer(work)
        scorer.losses = losses
        found = scorer({"unit": [row["unit"] for row in units]})
        assert found == {"unit": [0, 1], "rows": [36, 36], "set_aside": [aside, 0]}
        assert file.complete({})
    rows, expected = rows_of(tmp_path / "out.jsonl"), rows_of(tmp_path / "whole.jsonl")
    assert rows[:16] + rows[16 + aside :] == expected[:16] + expected[16 + aside :]
    assert [row["image_path"] for row in rows] == [row["image_path"] for row in expected]
    reasons = {row["reason"] for row in rows[16 : 16 + aside]}
    assert reasons == ({"set aside: what scored its batch was lost 3 times"} if aside else set())


@pytest.mark.slow
def test_two_nodes_give_the_result_of_one_machine(cluster: Any, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "in", 4, 20)
    finish(driver(cluster.address, tmp_path / "out.jsonl", 0, shards))
    finish(driver("none", tmp_path / "whole.jsonl", 0, shards))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    found = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out"))
    assert found == ["out.jsonl", "out.jsonl.run.json"], "nothing else is left"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_batch_that_ends_its_process_each_time_is_set_aside(cluster: Any, tmp_path: Path) -> None:
    """With a reason, and costs no other batch a row."""
    shards = write_shards(tmp_path / "in", 4, 36, poison=(2, 20))
    printed = finish(driver(cluster.address, tmp_path / "out.jsonl", 0, shards))
    assert "unit 2 36 16" in printed
    sound = [shards[number] for number in (0, 1, 3)]
    finish(driver("none", tmp_path / "whole.jsonl", 0, sound))
    rows = rows_of(tmp_path / "out.jsonl")
    aside = [row for row in rows if row["image_path"].startswith(shards[2])]
    assert [row for row in rows if row not in aside] == rows_of(tmp_path / "whole.jsonl")
    assert [row["image_path"] for row in aside] == [f"{shards[2]}/{member:04d}.png" for member in range(36)]
    assert [row["status"] for row in aside] == ["ok"] * 16 + ["undecodable"] * 16 + ["ok"] * 4
    assert {row["reason"] for row in aside[16:32]} == {"set aside: what scored its batch was lost 3 times"}


def test_room() -> None:
    there = {"CPU": 4.0, "GPU": 1.0}
    assert room_for(None, 1, 0, there) == 4
    assert room_for(2, 1, 0, there) == 2
    assert room_for(9, 1, 0, there) == 4, "Ray would wait for ever"
    assert room_for(None, 1, 0.5, there) == 2
    assert room_for(None, 0, 0, there) == 1
    with pytest.raises(ConfigError, match=r"an actor takes ray.num_cpus=8 .*; the cluster has 4 CPUs and 1 GPUs"):
        room_for(None, 8, 0, there)
    with pytest.raises(ConfigError, match="an actor takes"):
        room_for(1, 1, 1, {"CPU": 4.0})


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"ray.address=127.0.0.1:9: nobody answers there"), connected("127.0.0.1:9"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'mirror_pl\[ray\]'"), connected(None):
        pass


def workers() -> list[int]:
    """Processes of actors that score."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"MapWorker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["actor", "node", "driver"])
def test_kills_change_nothing(cluster: Any, tmp_path: Path, victim: str) -> None:
    """10,000 pictures over 40 shards, and five kills."""
    shards = write_shards(tmp_path / "in", 40, 250)
    finish(driver("none", tmp_path / "whole.jsonl", 0, shards))
    generator = random.Random(0)
    output, partial = tmp_path / "out.jsonl", Store(tmp_path / "out.jsonl.partial", None)
    process = driver(cluster.address, output, 0.05, shards)
    kills, moments = 0, []
    while kills < 5:
        before = Done(partial.names()).rows
        until = time.monotonic() + 120
        while Done(partial.names()).rows < before + generator.randrange(200, 1200):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        moments.append(Done(partial.names()).rows)
        kills += 1
        if victim == "actor":
            os.kill(generator.choice(workers()), signal.SIGKILL)
        elif victim == "node":
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
            cluster.add_node(num_cpus=2)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            process = driver(cluster.address, output, 0.05, shards)
    printed = finish(process)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    paths = [row["image_path"] for row in rows_of(output)]
    assert len(paths) == len(set(paths)) == 10_000
    print(f"{victim}: killed after {moments} rows; {printed.splitlines()[-1]}")


@pytest.mark.slow
def test_the_output_may_be_a_folder_of_parquet(cluster: Any, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "in", 6, 40)
    finish(driver(cluster.address, tmp_path / "out", 0, shards))
    finish(driver("none", tmp_path / "whole", 0, shards))
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(tmp_path / "whole"))
