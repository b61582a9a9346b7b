"""The app without a browser: what it answers is the detector's own, what it refuses, and what stays behind (nothing)."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from calibrations import fitted
from flat_detector import FlatDetector
from golden_set import SMALL

import mirror_pl.jobs.app
import mirror_pl.jobs.serve
import mirror_pl.serving.scoring
from mirror_pl.config.command import compose
from mirror_pl.config.schema import AppSettings, read_settings
from mirror_pl.detectors import CropPolicy, MirrorDetector, Prediction
from mirror_pl.errors import ConfigError
from mirror_pl.images import PreprocessSpec, plan_crops
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.pictures import prepare_item
from mirror_pl.serving.place import allowed_hosts, free_port, is_local, private_folder
from mirror_pl.serving.recipe import recipe
from mirror_pl.serving.scoring import Scorer

PNG = next(SMALL.data_root / row["path"] for row in SMALL.rows() if row["path"].endswith(".png"))
JPG = next(SMALL.data_root / row["path"] for row in SMALL.rows() if row["path"].endswith(".jpg"))
HOSTILE = "<img src=x onerror=alert(1)>.png"


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


def test_a_file_that_ends_its_decoder_costs_itself_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(item: Item, **more: Any) -> Any:
        if "signal" in item.path:
            os.kill(os.getpid(), signal.Signals[item.path.partition(".")[2]])
        return prepare_item(item, **more)

    monkeypatch.setattr("mirror_pl.prediction.engine.prepare_item", play)
    monkeypatch.setattr(mirror_pl.serving.scoring, "_START", "fork")
    scorer = Scorer(FlatDetector(), "flat", CropPolicy())
    items = [Item(PNG.read_bytes(), "a", ".png"), Item(b"x", "signal.SIGSEGV", ""), Item(JPG.read_bytes(), "b", ".jpg")]
    found = [one for _, one in scorer.score(items)]
    assert [one.status for one in found] == ["ok", "undecodable", "ok"]
    assert found[1].reason == "the process that decoded it was ended by SIGSEGV"
    lost = [one for _, one in scorer.score([Item(b"x", "signal.SIGKILL", ""), items[0]])]
    assert [one.reason.partition(",")[0] for one in lost] == ["the system ended the process that decoded it"] * 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("port=70000", "port must be"),
        ("max_upload_mb=0", "max_upload_mb must be more than 0"),
        ("max_files=0", "max_files must be at least 1"),
        ("max_megapixels=.inf", "max_megapixels"),
        ("at_once=0", "at_once must be at least 1"),
        ("precision=half", "precision must be"),
        ("hosts=['https://a']", "hosts: "),
        ("abstain=0.1", "abstain: it needs a calibration"),
    ],
)
def test_settings_out_of_range(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(compose("app", [override]), AppSettings)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_pl.jobs.serve, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mirror_pl\[app\]'"):
        mirror_pl.jobs.app.run(compose("app"))


def test_where_it_is_served() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port={port} is taken on 127\.0\.0\.1; (\d+) is free: port=\1"):
            free_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"host=nowhere\.invalid"):
        free_port("nowhere.invalid", 0)
    local = [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.0.1")]
    assert local == [True, True, True, False, False]
    assert allowed_hosts("0.0.0.0", []) == ["*"]
    assert "*" not in allowed_hosts("127.0.0.1", [])
    assert "example.org" in allowed_hosts("0.0.0.0", ["example.org"])


@dataclass
class Served:
    address: str
    functions: list[int]

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json", **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": kind, **headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def upload(self, *files: tuple[str, bytes]) -> tuple[int, str]:
        head = '--x\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
        body = b"".join(head.format(name).encode() + content + b"\r\n" for name, content in files) + b"--x--\r\n"
        return self.ask("gradio_api/upload", body, "multipart/form-data; boundary=x")

    def score(self, number: int, *files: tuple[str, bytes], **more: Any) -> Any:
        """Do what the page does: upload, ask, wait; and return what it then shows, or the error."""
        status, paths = self.upload(*files)
        assert status == 200, paths
        return self.asked(number, list(zip(json.loads(paths), (name for name, _ in files), strict=True)), **more)

    def asked(self, number: int, uploads: list[tuple[str, str]], crops: str = "center") -> Any:
        sent = [{"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}} for path, name in uploads]
        session = uuid.uuid4().hex
        data = [sent if number else sent[0], crops, "mean", "logit", 1 / 3]
        question = {"data": data, "fn_index": self.functions[number], "session_hash": session}
        assert self.ask("gradio_api/queue/join", json.dumps(question).encode())[0] == 200
        events = self.ask(f"gradio_api/queue/data?session_hash={session}")[1]
        done = next(json.loads(line[6:]) for line in events.splitlines() if "process_completed" in line)
        return done["output"]["data"] if done["success"] else done["output"]["error"]


@contextmanager
def served(detector: Any, **more: Any) -> Iterator[Served]:
    pytest.importorskip("gradio", reason="needs mirror_pl[app]")
    with private_folder() as folder:
        from mirror_pl.serving.page import build_page, launch

        assert folder.stat().st_mode & 0o777 == 0o700
        scorer = Scorer(detector, "a small detector", CropPolicy(), num_workers=1, **more)
        page, port = build_page(scorer, folder, max_files=5, at_once=2), free_port("127.0.0.1", 0)
        hosts = allowed_hosts("127.0.0.1", ["example.org"])
        launch(page, host="127.0.0.1", port=port, hosts=hosts, root_path=None, max_upload_mb=1)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as reply:
                functions = [one["id"] for one in json.load(reply)["dependencies"]]
            yield Served(f"http://127.0.0.1:{port}/", functions)
        finally:
            page.close(verbose=False)
    assert not folder.exists()


def test_scores_are_those_of_the_files(small_detector: MirrorDetector, tmp_path: Path) -> None:
    with served(small_detector) as page:
        for name in ("a.PNG", "a.jpg", "a", "b (1).png"):  # whose suffix decides about the alignment, as on disk
            (tmp_path / name).write_bytes(PNG.read_bytes())
            expected = small_detector.predict(tmp_path / name)
            verdict, shown, details = page.score(0, (name, PNG.read_bytes()))
            assert f"logit {expected.logit:+.3f}" in verdict
            assert f'<h2 dir="auto">{name}</h2>' in verdict
            assert len(shown) == 4, "the picture, and three maps"
            assert "It does not say where the picture comes from" in details
            assert ("JPEG at quality 96" in details) == name.lower().endswith(".png")
        several = small_detector.predict(JPG, policy=CropPolicy("grid3x3"))
        assert f"logit {several.logit:+.3f}" in page.score(0, (JPG.name, JPG.read_bytes()), crops="grid3x3")[0]
        assert len(page.score(0, (JPG.name, JPG.read_bytes()), crops="multiscale")[1]) == 10, "maps of each size"
        assert "crops must be one of" in page.score(0, ("a.png", b"1"), crops="grid9x9")

        # To the last digit, in the file that is downloaded; the same picture twice, and beside others.
        files = [
            ("=same.png", PNG.read_bytes()),
            ("same.png", PNG.read_bytes()),
            ("no.jpg", b"no"),
            (JPG.name, JPG.read_bytes()),
        ]
        files.append(("cut.png", PNG.read_bytes()[:-2000]))
        said, table, thumbnails, download = page.score(1, *files)
        assert "4 of 5 scored" in said
        status, text = page.ask(f"gradio_api/file={download['value']['path']}")
        assert status == 200
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["name"] for row in rows] == ["'=same.png", *(name for name, _ in files[1:])]
        expected_all = small_detector.predict([content for _, content in files])
        assert [row["p_fake"] for row in rows] == ["" if one.p_fake is None else str(one.p_fake) for one in expected_all]
        assert [row["status"] for row in rows] == ["ok", "ok", "undecodable", "ok", "truncated"]
        assert [row[3] for row in table["data"]] == [row["status"] for row in rows]
        assert [one["caption"].rpartition(", ")[2] for one in thumbnails][-1] == "truncated"
        assert len(thumbnails) == 4


def test_what_is_refused(small_detector: MirrorDetector) -> None:
    with served(small_detector, max_megapixels=0.001) as page:
        assert "cannot identify the file" in page.score(0, ("no.png", b"no image"))[0]
        assert "max_megapixels=0.001" in page.score(0, ("a.png", PNG.read_bytes()))[0]
        assert page.upload(("large.png", bytes(2**20 + 1)))[0] == 413
        assert page.score(1, *[("a.png", b"1")] * 6) == "6 files; at most 5 are taken at once (max_files)."

        # Only what was uploaded is scored, and handed out.
        for path in (str(PNG), "/etc/passwd", "/dev/zero"):
            assert page.asked(0, [(path, "a.png")]) is None, "an error, of which nothing is said"
            assert page.ask(f"gradio_api/file={path}")[0] == 403
        for address in ("http:", "https:", "\\u0068ttp:"):
            question = '{"data": [[{"path": "%s//example.com/a.png", "meta": {"_type": "gradio.FileData"}}]], "fn_index": 1}'
            assert page.ask("gradio_api/queue/join", (question % address).encode())[0] == 400
        for garbage in (b"{", b"[" * 100_000, b"\xff"):
            assert page.ask("gradio_api/queue/join", garbage)[0] in (400, 422), "by FastAPI itself"
        assert page.ask("monitoring/summary")[0] == 403

        # A page elsewhere whose name is made to lead here.
        for host, status in (("localhost:1", 200), ("example.org", 200), ("evil.example", 400), ("127.0.0.1.evil", 400)):
            assert page.ask("", Host=host)[0] == status, host
        assert not re.search(r"(googleapis|gstatic|cdnjs|jsdelivr|unpkg)", page.ask("")[1])


def test_a_detector_without_a_bank_has_no_maps() -> None:
    with served(FlatDetector()) as page:
        assert len(page.score(0, ("a.png", PNG.read_bytes()))[1]) == 1


def test_what_is_said_of_a_picture() -> None:
    pytest.importorskip("gradio", reason="needs mirror_pl[app]")
    from mirror_pl.serving.page import details_html, table, verdict_html

    flat = FlatDetector()
    scorer, size = Scorer(flat, "flat", CropPolicy(), miniature=True), (8, 8)
    plain = Prediction(0.5, 0.62, "truncated", "ends <early>", size, evidence={"<b>": 1.0})
    said = verdict_html(scorer, HOSTILE, plain)
    assert "Fake: the detector takes this picture for generated." in said
    assert "not the chance that this picture is generated" in said
    assert "Truncated: ends &lt;early&gt;. What there is of it was scored." in said
    assert "no detector for the real world" in said
    for text in (said, details_html(plain, [HOSTILE]), verdict_html(scorer, HOSTILE, Prediction(None, None, "undecodable"))):
        assert "<img" not in text
    assert "<b>" not in details_html(plain, [])
    unsure = replace(plain, status="ok", raw_logit=1.1523, banded="unsure")
    said = verdict_html(replace(scorer, miniature=False), "a.png", unsure)
    assert "Unsure: " in said
    assert "own: +1.152" in said
    assert "it is the chance of a generated picture" in said
    assert "miniature" not in said
    assert table(["a.png"], [unsure]) == [["a.png", "0.6200", "unsure", "ok", "ends <early>"]]


def test_a_calibrated_detector_keeps_its_crops(small_detector: MirrorDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = small_detector.predict(PNG)
    monkeypatch.setattr(small_detector, "calibration", fitted())
    expected = small_detector.predict(PNG)
    assert expected.logit != raw.logit
    with served(small_detector) as page:
        verdict, _, _ = page.score(0, (PNG.name, PNG.read_bytes()), crops="five")
        assert f"logit {expected.logit:+.3f} (the detector's own: {raw.logit:+.3f})" in verdict
