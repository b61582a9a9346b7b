"""The app without a browser: what a picture's answer is, what is refused, what stays behind (nothing), and its command."""

from __future__ import annotations

import base64
import csv
import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flat_detector import FlatDetector
from golden_set import SMALL
from mirror_pl.app_page import markup
from mirror_pl.app_page.answer import Costs, answer, predictions_of
from mirror_pl.app_page.port import is_local, listen, private_folder
from mirror_pl.app_page.recipe import recipe
from mirror_pl.app_page.uploads import MOST_AT_ONCE, WAIT_S, RefusedUploadError, UploadLimits, Uploads
from PIL import Image

import mirror_pl.jobs.app
from mirror_pl.config.command import compose
from mirror_pl.config.schema import AppSettings, read_settings
from mirror_pl.detectors import CropPolicy, MirrorDetector, Prediction
from mirror_pl.errors import ConfigError
from mirror_pl.images import PreprocessSpec, plan_crops
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.pictures import prepare_item

PNG = next(SMALL.data_root / row["path"] for row in SMALL.rows() if row["path"].endswith(".png"))
JPG = next(SMALL.data_root / row["path"] for row in SMALL.rows() if row["path"].endswith(".jpg"))
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.mark.parametrize("policy", [CropPolicy(), CropPolicy("five", "median", "score"), CropPolicy("multiscale")])
@pytest.mark.parametrize("path", [PNG, JPG], ids=["png", "jpg"])
def test_an_answer_is_the_prediction_of_the_file(small_detector: MirrorDetector, path: Path, policy: CropPolicy) -> None:
    found = answer(small_detector, path.read_bytes(), path.name, policy)
    assert found.prediction == small_detector.predict(path, policy=policy)
    assert len(found.maps) == (9 if policy.crops == "multiscale" else 3), "a picture of each size"
    assert all(Image.open(io.BytesIO(one.png)).format == "PNG" for one in found.maps)
    assert found.jpeg is not None
    assert max(Image.open(io.BytesIO(found.jpeg)).size) <= 768
    page = markup.shown(found, miniature=False)
    assert page.count('class="over"') == policy.count
    assert f"{found.prediction.p_fake:.3f}" in page
    assert "miniature" not in page


def test_the_name_decides_about_the_alignment(small_detector: MirrorDetector, tmp_path: Path) -> None:
    """As for a file on disk, whatever it holds."""
    for name in ("a.PNG", "a.jpg", "a", ".png"):
        (tmp_path / name).write_bytes(PNG.read_bytes())
        found = answer(small_detector, PNG.read_bytes(), name)
        assert found.prediction == small_detector.predict(tmp_path / name)
        assert any("JPEG at quality 96" in step for step in found.recipe) == (name == "a.PNG"), name


def test_the_recipe_in_words() -> None:
    def steps(size: tuple[int, int], crops: str, name: str, **policy: Any) -> list[str]:
        spec, chosen = PreprocessSpec(), CropPolicy(crops, **policy)
        return list(recipe(size, plan_crops(size, spec, crops), spec, chosen, name))

    large = steps((2000, 1000), "center", "a.PNG")
    assert large[1] == "Resized from 2000 x 1000 to 1024 x 512 px, bicubic, with antialiasing."
    assert large[2] == "One crop of 224 x 224 px cut at (400, 144), from the left and the top."
    assert large[3].endswith("decoded again, because the file's name ends in .png.")
    assert large[-1] == "The score is that of the one crop."
    small = steps((100, 300), "five", "a", aggregate="topk", top_fraction=0.4)
    assert small[1] == "Not resized: the shorter side, 100 px, is not above 512 px."
    assert "padded with zeros" in small[3]
    assert "has no suffix: that is for .png and .bmp" in small[4]
    assert small[-1] == "The score is the mean of the largest of the crops' logits, 40% of them."
    scaled = steps((640, 480), "multiscale", "a.jpg")
    assert scaled[1:4] == [
        "Resized from 640 x 480 to 320 x 240 px, bicubic, with antialiasing.",
        "Not resized: the shorter side, 480 px, is not above 512 px.",
        "Resized from 640 x 480 to 1280 x 960 px, bicubic, with antialiasing.",
    ]
    assert "in the picture of 1280 x 960 px, cut at" in scaled[6]
    assert "was repeated" in " ".join(steps((100, 100), "windows", "a.jpg"))


def test_what_has_no_score_has_a_reason(small_detector: MirrorDetector) -> None:
    for content, reason in ((b"", "an empty file"), (b"no image", "cannot identify the file")):
        found = answer(small_detector, content, HOSTILE)
        assert found.jpeg is None
        assert reason in found.prediction.reason
        assert f"No score: {found.prediction.reason}" in markup.shown(found, miniature=True)
    cut = answer(small_detector, PNG.read_bytes()[:-2000], "cut.png")
    assert "What there is of it was scored" in markup.shown(cut, miniature=False)
    large = answer(small_detector, PNG.read_bytes(), PNG.name, None, Costs(max_megapixels=0.001))
    assert re.search(r"exceeds limit of 1000 pixels.* max_megapixels=0.001", large.prediction.reason)


def test_a_file_that_ends_its_decoder_costs_itself_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(item: Item, **more: Any) -> Any:
        if "signal" in item.path:
            os.kill(os.getpid(), signal.Signals[item.path.partition(".")[2]])
        return prepare_item(item, **more)

    monkeypatch.setattr("mirror_pl.prediction.engine.prepare_item", play)
    files = [("a.png", PNG.read_bytes()), ("signal.SIGSEGV", b"x"), ("b.jpg", JPG.read_bytes())]
    found = predictions_of(FlatDetector(), files, CropPolicy(), Costs(start="fork"))
    assert [one.status for one in found] == ["ok", "undecodable", "ok"]
    assert found[1].reason == "the process that decoded it was ended by SIGSEGV"
    (lost,) = predictions_of(FlatDetector(), [("signal.SIGKILL", b"x")], CropPolicy(), Costs(start="fork"))
    assert lost.reason == "the system ended the process that decoded it, as it does when memory runs out"


def test_a_detector_without_a_bank_has_no_maps() -> None:
    found = answer(FlatDetector(), PNG.read_bytes(), "a.png")
    assert found.maps == ()
    assert "no memory bank" in markup.shown(found, miniature=False)


def test_names_are_text(small_detector: MirrorDetector) -> None:
    found = answer(small_detector, PNG.read_bytes(), HOSTILE)
    rows = [(HOSTILE, found.prediction), ("=1+1.png", Prediction(None, None, "undecodable", "<b>")), ("ü", found.prediction)]
    for page in (markup.shown(found, miniature=True), markup.table(rows, miniature=True), markup.message(HOSTILE)):
        assert "<img src=x" not in page
        assert "&lt;img src=x" in page
        assert "<b>" not in page.replace("<b>Decision", "").replace("<b>And", "").replace("<b>2 of 3", "")
    read = list(csv.reader(io.StringIO(markup.table_csv(rows))))
    assert read[0] == ["name", "p_fake", "decision", "status", "reason"]
    assert [row[0] for row in read[1:]] == [HOSTILE, "'=1+1.png", "ü"]
    assert float(read[1][1]) == found.prediction.p_fake


def test_an_upload_is_handed_out_once_and_not_kept_for_long() -> None:
    now = [0.0]
    uploads = Uploads(UploadLimits(1, 2), lambda: now[0])
    first, second = uploads.keep([b"1", b"1"], "a")
    assert first != second
    assert uploads.take(first) == b"1"
    assert uploads.take(first) is None
    now[0] = WAIT_S + 1
    uploads.drop_old()
    assert len(uploads) == 0
    assert uploads.take(second) is None


def test_room_for_uploads_ends() -> None:
    """A client may hold a batch, all of them together two; and it counts what has arrived, not what was announced."""
    uploads, batch = Uploads(UploadLimits(1, 2)), 2 * 2**20
    with (
        pytest.raises(RefusedUploadError, match=r"3.0 MB at once; at most 2 files of 1 MB"),
        uploads.arriving(3 * 2**20, "a"),
    ):
        pass
    uploads.keep([bytes(2**20)], "a")
    for client in ("b", "c", "d", "e"):
        uploads.keep([bytes(2**19)], client)
    with uploads.arriving(batch, "a") as arrived, uploads.arriving(batch, "f") as also_arrived:
        with pytest.raises(RefusedUploadError, match="Try again") as refused:
            arrived(2**20 + 2**16)
        assert refused.value.status == 503
        also_arrived(2**20)
        with pytest.raises(RefusedUploadError, match="Try again"):
            arrived(2**18)
    with uploads.arriving(batch, "a") as arrived:
        arrived(2**20)
    with ExitStack() as waiting:
        for _ in range(MOST_AT_ONCE):
            waiting.enter_context(uploads.arriving(batch, "a"))
        with uploads.arriving(batch, "b"), pytest.raises(RefusedUploadError, match="on their way"), uploads.arriving(1, "a"):
            pass
    with uploads.arriving(1, "a"):
        pass


def test_the_names_that_it_may_be_asked_by() -> None:
    assert read_settings(compose("app"), AppSettings).hosts == []
    assert read_settings(compose("app", ["hosts=[example.org,b]"]), AppSettings).hosts == ["example.org", "b"]
    with pytest.raises(ConfigError, match=r"hosts: .*got https://a"):
        read_settings(compose("app", ["hosts=['https://a']"]), AppSettings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("port=70000", "port must be"),
        ("max_upload_mb=0", "max_upload_mb must be more than 0"),
        ("max_files=0", "max_files must be at least 1"),
        ("max_megapixels=.inf", "max_megapixels"),
        ("num_workers=0", "num_workers must be at least 1"),
        ("precision=half", "precision must be"),
    ],
)
def test_settings_out_of_range(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(compose("app", [override]), AppSettings)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_pl.jobs.app, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mirror_pl\[app\]'"):
        mirror_pl.jobs.app.run(compose("app"))


def test_a_taken_port_is_named_with_the_next_free_one() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port={port} is taken on 127\.0\.0\.1; (\d+) is free: port=\1"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"host=nowhere\.invalid"):
        listen("nowhere.invalid", 0)
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.0.1")] == [True] * 3 + [
        False
    ] * 2


@dataclass
class Served:
    address: str
    uploads: Uploads
    folder: Path

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json", **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": kind, **headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def raw(self, request: bytes, patience_s: float = 20) -> bytes:
        """Return the first line of the answer to what is no whole request."""
        with socket.create_connection(("127.0.0.1", int(self.address.rsplit(":", 1)[1]))) as line:
            line.sendall(request)
            line.settimeout(patience_s)
            return line.recv(4096).splitlines()[0]

    def upload(self, *files: tuple[str, bytes]) -> tuple[int, str]:
        head = '--x\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
        body = b"".join(head.format(name).encode() + content + b"\r\n" for name, content in files) + b"--x--\r\n"
        return self.ask("/gradio_api/upload", body, "multipart/form-data; boundary=x")

    def score(self, number: int, *files: tuple[str, bytes], crops: str = "center") -> str:
        """Do what the page does: upload, ask, wait; and return what it then shows."""
        status, paths = self.upload(*files)
        assert status == 200, paths
        sent = [
            {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
            for path, (name, _) in zip(json.loads(paths), files, strict=True)
        ]
        session = uuid.uuid4().hex
        data = [sent if number else sent[0], crops, "mean", "logit", 1 / 3]
        question = {"data": data, "fn_index": number, "session_hash": session}
        assert self.ask("/gradio_api/queue/join", json.dumps(question).encode())[0] == 200
        events = self.ask(f"/gradio_api/queue/data?session_hash={session}")[1]
        done = [json.loads(line[6:]) for line in events.splitlines() if "process_completed" in line]
        assert done[0]["success"], done
        # A generator's last word is said before it is done.
        said = [json.loads(line[6:])["output"]["data"][0] for line in events.splitlines() if '"output"' in line]
        return next(str(text) for text in reversed(said) if isinstance(text, str))


@contextmanager
def served(detector: MirrorDetector) -> Iterator[Served]:
    uvicorn = pytest.importorskip("uvicorn", reason="needs mirror_pl[app]")
    pytest.importorskip("gradio", reason="needs mirror_pl[app]")
    with private_folder() as folder, listen("127.0.0.1", 0) as opened:
        from mirror_pl.app_page.blocks import Service
        from mirror_pl.app_page.web import web_app

        uploads = Uploads(UploadLimits(1, 5))
        service = Service(detector, "a small detector", CropPolicy(), Costs(), uploads)
        app = web_app(service, folder, hosts=["Example.org:8443"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{opened.getsockname()[1]}", uploads, folder)
        finally:
            server.should_exit = True
            thread.join()


def test_what_the_page_asks_for(small_detector: MirrorDetector) -> None:
    with served(small_detector) as page:
        with urllib.request.urlopen(page.address) as reply:
            assert reply.headers["content-security-policy"].startswith("default-src 'self'")
            text = reply.read().decode()
        assert not re.search(r"(googleapis|gstatic|cdnjs|jsdelivr|unpkg)", text)
        for path in (
            f"file={PNG}",
            "file=/etc/passwd",
            "info",
            "openapi.json",
            "proxy=http://example.com",
            "runs",
            "vibe-code",
        ):
            assert page.ask(f"/gradio_api/{path}")[0] == 404
        assert page.ask("/gradio_api/call/score", b"{}")[0] == 404
        assert page.ask("/monitoring/summary")[0] == 404
        assert page.ask("/gradio_api/queue/join", b" " * (2**20 + 1))[0] == 413

        assert page.upload(("large.png", bytes(2**20 + 1))) == (
            413,
            "large.png is larger than 1 MB, the most for a file (max_upload_mb).",
        )
        assert page.upload(*[("a.png", b"1")] * 6) == (413, "At most 5 files are taken at once (max_files).")
        assert page.ask("/gradio_api/upload", b"no form")[0] == 400
        assert len(page.uploads) == 0

        # A refusal does not wait for the rest: that it is too long is in its first lines.
        announced = b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: %b\r\n\r\n"
        assert b"413" in page.raw(announced % b"999999999")
        for length in (b"9" * 19, b"9" * 5000, "²".encode("latin-1"), b"-1"):
            assert re.search(rb" 4\d\d ", page.raw(announced % length)), length


def test_only_what_was_uploaded_is_read(small_detector: MirrorDetector) -> None:
    """Gradio copies whatever file it is asked about into its folder, and reads some of them for ever."""
    with served(small_detector) as page:
        up = "/".join([".."] * len(page.folder.parts))
        (key,) = page.uploads.keep([b"1"], "a")
        (again,) = json.loads(page.upload(("..", b"1"))[1])
        assert re.fullmatch(rf"{page.folder}/[0-9a-f]{{32}}", again), "nothing in it is the client's choice"
        inside = [f"{up}/etc/passwd", f"{up}/dev/zero", "", ".", "..", f"{key}/", f"./{key}", f"{key}/../../x", f"/{key}"]
        for path in (
            *(f"{page.folder}/{name}" for name in inside),
            "http://example.com/a.png",
            str(PNG),
            key,
            None,
            1,
            [f"{page.folder}/{key}"],
            {"path": "/etc/passwd"},
        ):
            question = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "a"}
            status, said = page.ask("/gradio_api/queue/join", json.dumps(question).encode())
            assert (status, said.split(",")[0]) == (400, "Only uploads are scored"), path
        assert [*page.folder.iterdir()] == []
        assert len(page.uploads) == 2
        assert "The score is that" in page.score(0, (PNG.name, PNG.read_bytes()))


def test_who_announces_much_and_sends_nothing_keeps_nobody_out(
    small_detector: MirrorDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(small_detector) as page:
        import mirror_pl.app_page.web

        monkeypatch.setattr(mirror_pl.app_page.web, "STALL_S", 1.0)
        length = page.uploads.limits.client_bytes
        head = "POST /gradio_api/{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nContent-Type: {}\r\n\r\n"
        upload = head.format("upload", length, "multipart/form-data; boundary=x").encode() + b"--x\r\n"
        with ThreadPoolExecutor(6) as idle:
            stalled = [idle.submit(page.raw, upload) for _ in range(4)]
            stalled += [
                idle.submit(page.raw, head.format(name, 99, "text/plain").encode()) for name in ("queue/join", "cancel")
            ]
            time.sleep(0.3)
            assert page.upload(("a.png", bytes(2**20)))[0] == 200
            assert all(b" 408 " in one.result() for one in stalled)

        # Nor who drips: what counts is how much came.
        with socket.create_connection(("127.0.0.1", int(page.address.rsplit(":", 1)[1]))) as line:
            line.sendall(upload)
            line.settimeout(0.1)
            said, end = b"", time.monotonic() + 20
            while not said and time.monotonic() < end:
                line.sendall(b"x")
                with suppress(TimeoutError):
                    said = line.recv(100)
            assert b" 408 " in said


def test_a_client_that_goes_away_is_nobodys_matter(
    small_detector: MirrorDetector, capfd: pytest.CaptureFixture[str]
) -> None:
    form = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n--x\r\n"
    with served(small_detector) as page:
        for request in (
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\n" + form,
            b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
            b"GET /gradio_api/queue/data?session_hash=gone HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", int(page.address.rsplit(":", 1)[1]))) as line:
                line.sendall(request)
                time.sleep(0.2)
        assert page.ask("/gradio_api/upload", b"no form")[0] == 400
    assert "Traceback" not in capfd.readouterr().err


def test_another_servers_page_is_refused(small_detector: MirrorDetector) -> None:
    with served(small_detector) as page:
        here = page.address.removeprefix("http://")
        port = here.rpartition(":")[2]
        for host in (here, f"localhost:{port}", "LOCALHOST", "[::1]:7860", "example.org", "EXAMPLE.org:1"):
            assert page.ask("/", Host=host)[0] == 200, host
        for host in ("evil.example", f"evil.example:{port}", "example.org.evil", "127.0.0.1.evil", "[", "", "10.0.0.1"):
            assert page.ask("/", Host=host)[0] in (400, 403), host
        assert page.ask("/", Host="gpu")[1].endswith("hosts=[gpu] at its start would allow it")
        for origin in (f"http://{here}", "https://example.org", "https://example.org:8443"):
            assert page.ask("/gradio_api/upload", b"no form", Origin=origin)[0] == 400, origin
        for origin in ("null", "", "http://evil.example", "http://localhost:3000", f"http://{here}.evil"):
            for path, body in (("/", None), ("/gradio_api/upload", b""), ("/gradio_api/queue/join", b"{}")):
                assert page.ask(path, body, Origin=origin)[0] == 403, origin
        request = urllib.request.Request(page.address, headers={"Origin": page.address})
        with urllib.request.urlopen(request) as reply:
            assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def held(text: str) -> bool:
    """Whether any object of this process has a text."""
    gc.collect()
    return any(
        text in value for one in gc.get_objects() if type(one) is dict for value in [*one.values()] if type(value) is str
    )


def test_scores_over_http_and_nothing_is_left(small_detector: MirrorDetector, tmp_path: Path) -> None:
    with served(small_detector) as page:
        shown = page.score(0, (PNG.name, PNG.read_bytes()))
        assert f"{small_detector.predict(PNG).p_fake:.3f}" in shown
        assert "The recipe that was applied" in shown
        assert "9 crops" in page.score(0, (PNG.name, PNG.read_bytes()), crops="grid3x3")
        assert "crops must be one of" in page.score(0, ("a.png", b"1"), crops="grid9x9")
        assert "cannot identify the file" in page.score(0, ("no.png", b"no image"))

        # The same picture, twice and beside another one: each upload is its own.
        files = [
            ("a/same.png", PNG.read_bytes()),
            ("b/same.png", PNG.read_bytes()),
            ("no.jpg", b"no"),
            ("x.jpg", JPG.read_bytes()),
        ]
        table = page.score(1, *files)
        data = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', table)
        assert data is not None
        rows = list(csv.DictReader(io.StringIO(base64.b64decode(data[1]).decode())))
        expected = predictions_of(small_detector, [(name, content) for name, content in files], CropPolicy(), Costs())
        assert [row["p_fake"] for row in rows] == ["" if one.p_fake is None else repr(one.p_fake) for one in expected]
        assert [row["status"] for row in rows] == ["ok", "ok", "undecodable", "ok"]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda _: page.score(0, (PNG.name, PNG.read_bytes())), range(6)))
        assert {re.sub(r"[ \n]+", " ", text) for text in together} == {re.sub(r"[ \n]+", " ", shown)}

        assert len(page.uploads) == 0
        answered = '<h2 class="name">nowhere.png</h2>'
        assert answered in page.score(0, ("nowhere.png", PNG.read_bytes()))
        end = time.monotonic() + 10
        while held(answered) and time.monotonic() < end:  # what is held is let go once the reply is over
            time.sleep(0.1)
        assert not held(answered)
        assert page.folder.stat().st_mode & 0o777 == 0o700
        assert [path for path in page.folder.rglob("*") if path.is_file()] == []
    assert not page.folder.exists()


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs mirror_pl[app]")
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "mirror_pl.app"]
    with subprocess.Popen(
        [*command, "port=0", "host=0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as app:
        assert app.stdout is not None
        assert app.stderr is not None
        try:
            said = [app.stdout.readline(), app.stdout.readline()]
            assert "none for the real world" in said[0]
            port = re.search(r":(\d+)/", said[1])
            assert port is not None
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/") as page:
                assert b"mirror_pl" in page.read()
            taken = subprocess.run(
                [*command, f"port={port[1]}"], capture_output=True, text=True, check=False, env=environment
            )
            assert taken.returncode == 2
            assert f"port={port[1]} is taken" in taken.stderr
            assert list(tmp_path.glob("mirror_pl-app-*"))
        finally:
            app.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            app.wait(timeout=20)
        assert "anybody who can reach this port" in app.stderr.read()
    assert app.returncode == 0
    assert time.monotonic() - begun < 10
    assert list(tmp_path.glob("mirror_pl-app-*")) == []
