"""The service of the documentation: it is what the page shows, and does what the page says."""

from __future__ import annotations

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from golden_set import SMALL
from PIL import Image

from mirror_pl.detectors import MirrorDetector
from mirror_pl.locate import CHECKOUT

PAGE, SCRIPT = CHECKOUT / "docs/service.md", CHECKOUT / "docs/examples/service.py"
PATHS = [SMALL.data_root / row["path"] for row in SMALL.rows() if row["path"].endswith((".png", ".jpg"))][:8]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the example sets
    spec = importlib.util.spec_from_file_location("service_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def address(example: ModuleType, small_detector: MirrorDetector) -> Iterator[tuple[str, int]]:
    with example.Service(("127.0.0.1", 0), small_detector) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service.server_address
        service.shutdown()
        thread.join()


def post(address: tuple[str, int], content: bytes, path: str = "/predict") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", content)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_page_shows_the_script() -> None:
    assert f"```python\n{SCRIPT.read_text(encoding='utf-8')}```" in PAGE.read_text(encoding="utf-8")


def test_it_answers_as_predict_does(address: tuple[str, int], small_detector: MirrorDetector) -> None:
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda path: post(address, path.read_bytes()), PATHS))
    for path, (status, said) in zip(PATHS, replies, strict=True):
        expected = small_detector.predict(path)
        assert status == 200
        assert said["p_fake"] == expected.p_fake
        assert said["is_fake"] == expected.is_fake
        assert said["status"] == "ok"


def test_what_it_refuses(
    address: tuple[str, int], example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert post(address, b"no image") == (
        422,
        {"error": "UnidentifiedImageError: cannot identify the file", "status": "undecodable"},
    )
    assert post(address, PATHS[0].read_bytes(), "/elsewhere")[0] == 404
    for length, code in ((str(example.MAX_BYTES + 1), 413), ("x", 411), ("²", 411), ("9" * 19, 400), ("9" * 5000, 400)):
        line = HTTPConnection(*address, timeout=10)
        line.putrequest("POST", "/predict")
        line.putheader("Content-Length", length)
        line.endheaders()  # and nothing of the body
        assert line.getresponse().status == code
        line.close()
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    status, said = post(address, (tmp_path / "large.png").read_bytes())
    assert status == 422
    assert "DecompressionBombError" in said["error"]


def test_it_sends_away_whom_it_cannot_serve(
    example: ModuleType, small_detector: MirrorDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "PATIENCE_S", 0.1)
    with example.Service(("127.0.0.1", 0), small_detector) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        for _ in range(example.AT_ONCE):
            service.turns.acquire()
        assert post(service.server_address, PATHS[0].read_bytes())[0] == 503
        service.turns.release()
        assert post(service.server_address, PATHS[0].read_bytes())[0] == 200
        service.shutdown()
        thread.join()
