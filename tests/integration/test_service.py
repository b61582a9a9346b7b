"""The service, by FastAPI's own client: verdicts, refusals, what is scored together, and its command."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from golden_set import SMALL
from PIL import Image

import mirror_pl.jobs.serve
from mirror_pl.config.command import compose
from mirror_pl.config.schema import ServeSettings, read_settings
from mirror_pl.detectors import CropPolicy, MirrorDetector, Prediction
from mirror_pl.errors import ConfigError
from mirror_pl.prediction import Item
from mirror_pl.serving.scoring import Scorer

pytest.importorskip("fastapi", reason="needs mirror_pl[serve]")
from fastapi.testclient import TestClient

from mirror_pl.serving.service import Batcher, Metrics, ServiceLimits, build_service

PATHS = [SMALL.data_root / row["path"] for row in SMALL.rows() if row["path"].endswith((".png", ".jpg"))][:8]
PNG = next(path for path in PATHS if path.suffix == ".png")
LIMITS = ServiceLimits(max_upload_mb=0.5, max_files=4, max_waiting=8)


class Watched(Scorer):
    """Counts its batches, and waits with each until it may go on."""

    batches: list[int]
    gate: threading.Event

    def score(self, items: Any, *args: Any) -> Iterator[tuple[Item, Prediction]]:
        self.batches.append(len(items))
        assert self.gate.wait(30)
        return super().score(items, *args)


@pytest.fixture
def scorer(small_detector: MirrorDetector) -> Watched:
    made = Watched(small_detector, "a small detector", CropPolicy(), num_workers=0, max_megapixels=1)
    object.__setattr__(made, "batches", [])
    object.__setattr__(made, "gate", threading.Event())
    made.gate.set()
    return made


@pytest.fixture
def client(scorer: Scorer) -> Iterator[TestClient]:
    with TestClient(build_service(scorer, LIMITS)) as client:
        yield client


def test_a_picture_gets_the_verdict_of_its_file(client: TestClient, small_detector: MirrorDetector) -> None:
    for path in PATHS[:4]:
        reply, expected = (
            client.post("/predict", params={"name": path.name}, content=path.read_bytes()),
            small_detector.predict(path),
        )
        assert reply.status_code == 200
        assert reply.json() == {
            "name": path.name, "p_fake": expected.p_fake, "logit": expected.logit, "is_fake": expected.is_fake,
            "decision": expected.verdict, "status": "ok", "reason": "", "raw_logit": None,
        }  # fmt: skip
    by_format = client.post("/predict", content=PNG.read_bytes()).json()["logit"]
    assert by_format == small_detector.predict(PNG.read_bytes()).logit
    assert by_format == small_detector.predict(PNG).logit
    assert client.post("/predict", params={"name": "a.jpg"}, content=PNG.read_bytes()).json()["logit"] != by_format


def test_files_of_a_form(client: TestClient, small_detector: MirrorDetector) -> None:
    form = [("files", (path.name, path.read_bytes())) for path in PATHS[:3]] + [("files", ("bad.png", b"no image"))]
    reply = client.post("/predict/files", files=form)
    assert reply.status_code == 200
    assert [one["name"] for one in reply.json()] == [*(path.name for path in PATHS[:3]), "bad.png"]
    assert [one["status"] for one in reply.json()] == ["ok"] * 3 + ["undecodable"]
    expected = small_detector.predict(PATHS[:3])
    assert [one["p_fake"] for one in reply.json()[:3]] == [one.p_fake for one in expected]
    assert client.post("/predict/files", files=form * 2).status_code == 400, "more than max_files"
    assert client.post("/predict/files", files=[("files", ("a.png", bytes(2**19 + 1)))]).status_code == 413


def test_what_comes_together_is_scored_together(client: TestClient, scorer: Watched, small_detector: MirrorDetector) -> None:
    scorer.gate.clear()
    alone = [small_detector.predict(path) for path in PATHS]
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(client.post, "/predict", params={"name": path.name}, content=path.read_bytes()) for path in PATHS
        ]
        _wait(lambda: "mirror_pl_waiting 8" in client.get("/metrics").text)
        refused = client.post("/predict", content=b"x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        scorer.gate.set()
        replies = [one.result() for one in asked]
    assert [reply.status_code for reply in replies] == [200] * 8
    assert sum(scorer.batches) == 8
    assert len(scorer.batches) < 8
    assert [reply.json()["logit"] for reply in replies] == pytest.approx([one.logit for one in alone], abs=1e-4)


def test_what_waits_is_scored_before_the_end(scorer: Watched) -> None:
    batcher = Batcher(scorer, 8)

    async def answers() -> list[Prediction]:
        asked = asyncio.ensure_future(batcher.score([Item(PNG.read_bytes(), PNG.name, ".png")]))
        await asyncio.sleep(0)
        batcher.stop()
        batcher.start()
        return await asked

    assert [one.status for one in asyncio.run(answers())] == ["ok"]
    _wait(lambda: not batcher.ready)


def _wait(ready: Any) -> None:
    for _ in range(600):
        if ready():
            return
        threading.Event().wait(0.05)
    raise AssertionError("waited in vain")


def test_what_is_refused(client: TestClient) -> None:
    for content, reason in (
        (b"", "an empty file"),
        (b"no image", "cannot identify the file"),
        (_picture(1500), "max_megapixels=1"),
    ):
        reply = client.post("/predict", content=content)
        assert reply.status_code == 422
        assert reason in reply.json()["reason"]
        assert reply.json()["p_fake"] is None
    assert client.post("/predict", content=bytes(2**19 + 1)).status_code == 413
    for sent in ({"json": ["a"]}, {"content": PNG.read_bytes()}, {"data": {"a": "b"}}):
        reply = client.post("/predict/files", **sent)
        assert (reply.status_code, "multipart/form-data" in reply.json()["detail"]) == (415, True)
    assert client.get("/metrics").text.count("mirror_pl_waiting 0") == 1, "places are given back"


def test_a_body_is_refused_while_it_arrives(client: TestClient) -> None:
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            sent.append(1)
            yield bytes(2**16)

    reply = client.post("/predict", content=chunks())  # in chunks, without a length
    assert reply.status_code == 413
    assert "max_upload_mb" in reply.json()["detail"]


def _picture(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def test_health_metrics_and_the_description(client: TestClient) -> None:
    assert client.get("/health").json()["ready"] is True
    assert client.get("/health").json()["detector"] == "a small detector"
    client.post("/predict", content=PNG.read_bytes())
    client.post("/predict", content=b"x")
    text = client.get("/metrics").text
    for line in (
        'mirror_pl_requests_total{status="200"} 3',
        'mirror_pl_requests_total{status="422"} 1',
        'mirror_pl_pictures_total{status="ok"} 1',
        'mirror_pl_pictures_total{status="undecodable"} 1',
        'mirror_pl_request_seconds_bucket{le="+Inf"} 4',
    ):
        assert f"{line}\n" in text
    assert {"/predict", "/predict/files", "/health", "/metrics"} == set(client.get("/openapi.json").json()["paths"])
    assert client.get("/docs").status_code == 404, "it would load scripts from elsewhere"


def test_the_histogram_is_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.02, 0.2, 100):
        metrics.answered(200, seconds)
    counts = [int(count) for count in re.findall(r'bucket\{le=".*"\} (\d+)', metrics.text(0))]
    assert counts == [0, 1, 1, 2, 2, 2, 2, 2, 3]


def test_only_its_own_names(scorer: Scorer) -> None:
    with TestClient(build_service(scorer, LIMITS, hosts=["testserver"])) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "elsewhere.example"}).status_code == 400


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_pl.jobs.serve, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mirror_pl\[serve\]'"):
        mirror_pl.jobs.serve.run(compose("serve"))
    with pytest.raises(ConfigError, match="max_files and max_waiting"):
        read_settings(compose("serve", ["max_files=65"]), ServeSettings)


@pytest.mark.slow
def test_the_command() -> None:
    command = [sys.executable, "-m", "mirror_pl.serve", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as service:
        try:
            assert service.stdout is not None
            address = next(found[0] for line in service.stdout if (found := re.search(r"http://\S+/", line)))
            _wait(lambda: _answers(address))
            with urllib.request.urlopen(f"{address}predict?name=a.png", PNG.read_bytes(), timeout=60) as reply:
                assert json.load(reply)["status"] == "ok"
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 128 + signal.SIGTERM


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}health") as reply:
            return bool(json.load(reply)["ready"])
    except OSError:
        return False
