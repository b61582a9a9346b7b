"""Dashboards mirror a run: what is on them, read back from W&B's own files, and that no run depends on them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import wandb
from golden_set import SMALL
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image
from wandb_run_files import RunFiles, read_run

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError, IncompleteRunError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import train as training
from mirror_pl.reports.wandb_run import PUBLISHED_COLUMNS
from mirror_pl.scores import METRICS

WILDRF = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={SMALL.checkpoint}"]
HERE = ["trainer.accelerator=cpu", "num_workers=0", "~callbacks.progress"]
OFFLINE = ["logger=wandb", "logger.wandb.mode=offline"]
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0123456789" * 4, "WANDB_MODE": "online"}


@pytest.fixture(autouse=True, scope="module")
def _own_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A W&B that leaves nothing in the home folder, and no helper process behind."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield
        wandb.teardown()


def evaluate(output: Path, *more: str) -> Path:
    evaluation.run(compose("eval", [*WILDRF, *HERE, f"output_dir={output}", *more]))
    return output


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = os.environ.copy()
    for name in ("WANDB_SERVICE", "WANDB_MODE"):  # the first says where the helper process of this process is
        clean.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "mirror_pl.eval", *WILDRF, *HERE, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=clean | environment,
        stdin=subprocess.DEVNULL,
    )


def run_in(folder: Path) -> RunFiles:
    """The run on W&B that a run folder holds, once W&B's helper process, which writes it, is done with it."""
    (path,) = folder.glob("wandb/offline-run-*")
    until = time.monotonic() + 20
    while (run := read_run(path)).exit_code is None and time.monotonic() < until:
        time.sleep(0.05)
    return run


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_what_wandb_gets_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluate(tmp_path / "out", *OFFLINE, "logger.images=2", "logger.predictions=true", "logger.wandb.entity=us")
    run = run_in(folder)
    assert (run.run.project, run.run.entity, run.run.display_name) == ("mirror_pl", "us", "wildrf")
    assert (run.run.job_type, run.run.run_group, list(run.run.tags)) == ("eval", "", ["in-the-wild"])
    assert run.exit_code == 0
    assert run.stats, "system metrics"

    facts, metrics = json.loads((folder / "run.json").read_text()), metrics_of(folder)
    assert run.config["data_root"] == str(SMALL.data_root)
    assert run.config["run"]["detector_name"] == "mirror/tiny"
    for key in ("checkpoint", "detector", "versions", "data"):
        assert run.config["run"][key] == facts[key]

    sources = {"wildrf": metrics["mean"], "wildrf/pooled": metrics["pooled"]["metrics"]}
    sources |= {f"wildrf/{row['subset']}": row["metrics"] for row in metrics["subsets"]}
    for where, expected in sources.items():
        for name in METRICS:
            assert run.summary[f"{where}/{name}"] == expected[name]
    assert run.table("subsets") == [
        {
            "benchmark": "wildrf",
            **{key: row[key] for key in ("subset", "reals", "fakes", "unscored")},
            **{name: row["metrics"][name] for name in METRICS},
        }
        for row in metrics["subsets"]
    ]
    assert run.table("published") == [
        {
            "benchmark": "wildrf", "group": "in-the-wild", "detector": "mirror/tiny", "source": "", "published": None,
            "measured": metrics["mean"]["bal_acc"], "difference": None,
        }
    ]  # fmt: skip
    for chart in ("roc", "precision_recall"):
        drawn = run.table(f"{chart}_table")
        assert [row["lineKey"] for row in drawn] == sorted(row["lineKey"] for row in drawn)
        assert {row["lineKey"] for row in drawn} == {"facebook", "reddit", "twitter"}
        assert run.config["_wandb"]["visualize"][chart]["panel_config"]["panelDefId"] == "wandb/lineseries/v0"
    assert sum(run.summary["p_fake/real"]["values"]) == 9
    assert sum(run.summary["p_fake/fake"]["values"]) == 12

    table = run.table("images")
    by_kind = {row["kind"]: [r for r in table if r["kind"] == row["kind"]] for row in table}
    assert list(by_kind) == ["certain_right", "certain_wrong", "least_certain"]
    published = {row["path"]: float(row["prob_fake"]) for row in SMALL.rows() if row["path"].startswith("WildRF")}
    right = {path for path, p_fake in published.items() if (p_fake > 0.5) == ("1_fake" in path)}
    certain = sorted(published, key=lambda path: -abs(published[path] - 0.5))
    assert [row["path"] for row in by_kind["certain_right"]] == [path for path in certain if path in right][:2]
    assert [row["path"] for row in by_kind["certain_wrong"]] == [path for path in certain if path not in right][:2]
    assert [row["path"] for row in by_kind["least_certain"]] == certain[:-3:-1]
    for row in table:
        assert row["p_fake"] == pytest.approx(published[row["path"]], abs=1e-5)
    gallery = run.summary["samples/certain_wrong"]
    assert gallery["captions"][0].startswith("real, p_fake 0.98")
    with Image.open(run.folder / "files" / gallery["filenames"][0]) as image:
        assert max(image.size) <= 256

    assert f"predictions-{run.run.run_id}" in run.artifacts
    assert capsys.readouterr().out.count(f"wandb sync {run.folder}") == 1


def test_no_image_leaves_the_machine_unless_wanted(tmp_path: Path) -> None:
    run = run_in(evaluate(tmp_path / "out", *OFFLINE, "logger.images=0"))
    assert not [key for key in run.summary if key.startswith(("images", "samples"))]
    assert not list(run.folder.glob("files/media/images"))
    assert not [name for name in run.artifacts if name.startswith("predictions")]


def test_undefined_figures_and_subsets_of_one_class(tmp_path: Path) -> None:
    data = tmp_path / "data/synthwildx/dalle3"
    data.mkdir(parents=True)
    for path in (SMALL.data_root / "WildRF/test/facebook/1_fake").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    run = run_in(evaluate(tmp_path / "out", *OFFLINE, "benchmark=synthwildx", f"data_root={data.parents[1]}"))
    assert "synthwildx/dalle3/acc" in run.summary
    assert "synthwildx/bal_acc" not in run.summary
    assert run.table("subsets")[0]["bal_acc"] is None
    assert not [key for key in run.summary if key.startswith("roc")]
    assert run.exit_code == 0


@pytest.mark.slow  # W&B tries again for a while
def test_a_server_that_refuses_connections(tmp_path: Path) -> None:
    done = start("logger=wandb", "logger.wandb.settings.init_timeout=2", "output_dir=out", **NOWHERE)
    assert done.returncode == 0, done.stderr
    run = run_in(Path("out"))
    assert "W&B cannot be used online" in done.stderr
    assert "connection refused" in done.stderr
    assert f"wandb sync {run.folder.resolve()}" in done.stderr
    assert done.stdout.count(f"wandb sync {run.folder.resolve()}") == 1
    assert "Traceback" not in done.stderr
    assert Path("out/run.json").is_file()
    assert run.exit_code == 0
    assert run.summary["wildrf/bal_acc"] == metrics_of(Path("out"))["mean"]["bal_acc"]


class DyingServer(BaseHTTPRequestHandler):
    """As much of W&B's server as it takes to start a run; then it is out of order."""

    dead = False

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}") if self.path == "/graphql" else {}
        answer: dict[str, Any] = {}
        if "upsertBucket" in sent.get("query", ""):
            project = {"id": "1", "name": "mirror_pl", "entity": {"id": "1", "name": "us"}}
            bucket = {
                "id": "1",
                "name": sent["variables"]["name"],
                "config": "{}",
                "historyLineCount": 0,
                "project": project,
            }
            answer = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        content = json.dumps({"data": answer}).encode()
        self.send_response(503 if DyingServer.dead else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        DyingServer.dead |= bool(answer)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.slow  # W&B tries again for a while
def test_a_server_that_fails_on_the_way() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), DyingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there = NOWHERE | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
    done = start("logger=wandb", "logger.wandb.settings.finish_timeout=3", "output_dir=out", **there)
    server.shutdown()
    assert DyingServer.dead, "the run was started online"
    assert done.returncode == 0, done.stderr
    assert "logger=wandb: WandbLogger failed" in done.stderr
    (kept,) = Path("out/wandb").glob("run-*")
    assert f"wandb sync {kept.resolve()}" in done.stdout
    assert Path("out/run.json").is_file()
    assert read_run(kept).summary["wildrf/bal_acc"] == metrics_of(Path("out"))["mean"]["bal_acc"]


@pytest.mark.slow  # a process that starts anew; the parts are tested above and below
def test_the_jobs_of_a_sweep_are_runs_of_one_group(tmp_path: Path) -> None:
    """The first has data that cannot be read; its run on W&B ends with it, and with its exit code."""
    for label in ("0_real", "1_fake"):
        (folder := tmp_path / "bad/WildRF/test/facebook" / label).mkdir(parents=True)
        (folder / "x.jpg").write_text("no image")
    roots = f"data_root={tmp_path / 'bad'},{SMALL.data_root}"
    done = start(roots, "logger=wandb", "hydra.sweep.dir=sweeps/first", "--multirun", WANDB_MODE="offline")
    assert done.returncode == 3, done.stderr
    bad, good = sorted(
        map(run_in, (path.parent for path in Path("sweeps/first").glob("*/run.json"))), key=lambda run: run.folder.name
    )
    assert bad.run.run_id != good.run.run_id
    assert (bad.exit_code, good.exit_code) == (3, 0)
    assert bad.run.run_group == good.run.run_group == "first"
    assert done.stdout.count("wandb sync ") == 2


def test_a_job_that_fails_half_way_ends_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "test", fail)
        with pytest.raises(RuntimeError, match="a defect"):
            evaluate(tmp_path / "first", *OFFLINE)
    assert wandb.run is None
    second = run_in(evaluate(tmp_path / "second", *OFFLINE, "logger.wandb.group=mine", "logger.wandb.tags=[a,b]"))
    first = run_in(tmp_path / "first")
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.config["checkpoint"] == str(SMALL.checkpoint), "settings are shown from the start"
    assert (second.run.run_group, list(second.run.tags)) == ("mine", ["a", "b"])


@pytest.mark.parametrize("method", ["log_metrics", "finalize"])
def test_a_logger_that_fails_on_the_way_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(CSVLogger, method, fail)
    with pytest.warns(UserWarning, match=r"logger=csv: CSVLogger failed \(No space left on device\)") as caught:
        folder = evaluate(tmp_path / "out", "logger=csv")
    assert len([warning for warning in caught if "CSVLogger" in str(warning.message)]) == 1
    assert (folder / "run.json").is_file()


def test_a_logger_that_cannot_start_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: WandbLogger) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(WandbLogger, "experiment", property(fail))
    with pytest.warns(UserWarning, match=r"logger=wandb: WandbLogger failed \(Read-only file system\)"):
        folder = evaluate(tmp_path / "out", "logger=[csv,wandb]", "logger.wandb.mode=offline")
    assert (folder / "run.json").is_file()
    with (folder / "csv/metrics.csv").open() as file:
        assert any(row.get("report/auc") for row in csv.DictReader(file))


def test_wandbs_helper_process_killed_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pl.Trainer.test

    def killing(*args: Any, **kwargs: Any) -> Any:
        for child in _children():
            if "wandb" in child.with_name("cmdline").read_text():
                os.kill(int(child.parent.name), signal.SIGKILL)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "test", killing)
        with pytest.warns(UserWarning, match="logger=wandb: WandbLogger failed"):
            folder = evaluate(tmp_path / "first", *OFFLINE)
    assert (folder / "run.json").is_file()
    assert run_in(evaluate(tmp_path / "second", *OFFLINE)).exit_code == 0, "the next job has a helper of its own"


def _children() -> Iterator[Path]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                yield stat


def test_wandb_disabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluate(tmp_path / "out", "logger=wandb")  # by WANDB_MODE, as in all tests
    assert (folder / "run.json").is_file()
    assert not (folder / "wandb").exists()
    assert "wandb sync" not in capsys.readouterr().out


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = evaluate(tmp_path / "out", "logger=tensorboard", "logger.images=1")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert events.Scalars("report/auc")[0].value == pytest.approx(metrics_of(folder)["mean"]["auc"])
    assert "report/bal_acc/twitter" in tags["scalars"]
    assert len(tags["images"]) == 3
    assert "precision_recall/reddit" in tags["tensors"]


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{name}", False)
    with pytest.raises(ConfigError, match=r"pip install 'mirror_pl\[tensorboard\]'"):
        evaluate(tmp_path / "out", "logger=tensorboard")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["logger=wandb", "logger.wandb.mode=on"], "logger.wandb.mode must be null, online, offline or disabled, got on"),
        (["logger=wandb", "logger.images=-1"], "logger.images must be 0 or more, got -1"),
        (["logger=csv", "+logger.csv.colour=red"], "logger.csv: .*colour"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, pixels in enumerate(SMALL.pixels()[:20]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number}.jpg", quality=95)
    return folder


def train(output: Path, pictures: Path, *more: str) -> Path:
    settings = [
        f"backbone.path={SMALL.backbone_path}", f"data.real={pictures}", f"output_dir={output}", "phase.epochs=2",
        "phase.slots=48", "phase.heads=4", "phase.top_k=6", "batch_size=5", "trainer.log_every_n_steps=1",
    ]  # fmt: skip
    training.run(compose("train", [*settings, *HERE, *more]))
    return output


def test_training_logs_through_the_same_switch(tmp_path: Path, pictures: Path) -> None:
    folder = train(tmp_path / "bank", pictures, *OFFLINE)
    run = run_in(folder)
    assert (run.run.job_type, run.run.run_group, list(run.run.tags)) == ("train", "bank", ["train"])
    assert run.config["phase"]["slots"] == 48
    assert run.config["run"]["detector"]["memory_bank"]["slots"] == 48
    losses = {row["trainer/global_step"]: row["train/loss"] for row in run.history if "train/loss" in row}
    assert list(losses) == list(range(8))
    epochs = [row for row in run.history if "train/usage_entropy" in row]
    assert epochs, "figures of whole epochs"
    assert run.exit_code == 0

    events = train(tmp_path / "board", pictures, "logger=tensorboard")
    assert list((events / "tensorboard").glob("events.*"))
    assert "train/loss" in (train(tmp_path / "csv", pictures, "logger=csv") / "csv/metrics.csv").read_text()


def test_a_training_that_fails_ends_its_run(tmp_path: Path, pictures: Path) -> None:
    (pictures / "bad.jpg").write_text("no image")
    with pytest.raises(IncompleteRunError):
        train(tmp_path / "bank", pictures, *OFFLINE)
    assert run_in(tmp_path / "bank").exit_code == 3


def test_the_documented_chart_asks_for_columns_that_are_there() -> None:
    text = (Path(__file__).parents[2] / "docs/wandb.md").read_text()
    chart = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert 'tableKey: "published"' in text
    asked = {each["field"] for each in chart["transform"][1]["aggregate"]} | set(chart["transform"][1]["groupby"])
    assert asked < set(PUBLISHED_COLUMNS)
