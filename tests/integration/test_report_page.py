"""The page: names from outside are inert in it, it needs nothing but itself, and a browser has nothing to say against it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_folders import Run, images

from mirror_pl.config.command import compose
from mirror_pl.errors import IncompleteRunError
from mirror_pl.jobs.report import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
ENDING = "</script></style></title><script>document.title='owned'</script>"
VOID = {"meta", "link", "img", "br", "input", "path", "rect", "circle", "wbr"}


class Page(HTMLParser):
    """What a parser makes of a page: tags with their attributes, text by tag, and whether all is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] not in ("script", "style") else ""


def page_of(folder: Path, output: str = "out", **settings: Any) -> str:
    given = [f"{key}={value}" for key, value in {"replicates": 20, "output_dir": output, **settings}.items()]
    run(compose("report", [f"runs=[{folder}]", *given]))
    return Path(output, "report.html").read_text()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Runs whose every name is an attack, on two benchmarks, and one that is not complete."""
    evil = images({HOSTILE: (6, 6), "${7*7} {{7*7}} {% raw %}": (6, 6)}, right=0.5)
    evil += [(f"{ENDING}{HOSTILE}.png", HOSTILE, 0, 9.0), ("'><svg onload=alert(1)>", HOSTILE, 1, -9.0)]
    evil += [("caf\\xe9\u202e\x07.png", HOSTILE, 1, -8.0)]
    missing = {HOSTILE + "2": "not on disk"}
    Run(evil, "wildrf", ENDING, HOSTILE, f"/w/{HOSTILE}.pth", missing=missing).write(tmp_path / "runs/one")
    Run(evil, "chameleon", HOSTILE, "other", f"/w/{ENDING}.pth").write(tmp_path / "runs/two")
    Run(evil, "wildrf", ENDING, HOSTILE, f"/w/{ENDING}.pth").write(tmp_path / "runs/three")
    Run(evil, HOSTILE, HOSTILE, "other", HOSTILE).write_incomplete(tmp_path / "runs" / f"{HOSTILE.replace('/', '')}")
    return tmp_path / "runs"


def test_names_from_outside_are_inert(hostile: Path) -> None:
    with pytest.raises(IncompleteRunError):
        page_of(hostile, threshold_from="wildrf")
    text = Path("out/report.html").read_text()
    page = Page(text)
    assert page.wrong == page.open == []
    assert [tag for tag, _ in page.tags if tag in ("script", "style", "iframe", "object", "form", "base")] == [
        "style",
        "script",
    ]
    attributes = [(name, value) for _, attrs in page.tags for name, value in attrs.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [
        value
        for name, value in attributes
        if name in ("src", "href") and not (value or "").startswith(("#", "data:", "./figures/"))
    ]
    for name in (HOSTILE, ENDING, "{{7*7}}"):
        assert name in page.text
    markdown, tex = Path("out/report.md").read_text(), Path("out/report.tex").read_text()
    assert "<" not in markdown.replace("<0.0001", "")
    assert all(line.startswith(("%", "\\", "mirror", "Benchmark", "Mean", "All images", "<")) for line in tex.splitlines())


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Run(images({"a": (20, 20), "b": (0, 20)}), checkpoint=f"/w/{name}.pth").write(tmp_path / f"runs/{name}")
    text = page_of(tmp_path / "runs", threshold_from="wildrf/a")
    page = Page(text)
    assert page.wrong == page.open == []
    assert not re.search(r"(src|href|url|action|@import)\s*[=(]?\s*[\"']?\s*(https?:)?//", text)
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not [attrs for _, attrs in page.tags if "style" in attrs], "the policy would pass them over"
    tables = [attrs for tag, attrs in page.tags if tag == "table"]
    assert len(tables) == [tag for tag, _ in page.tags].count("caption") == 3
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    assert all(
        (attrs.get("role") == "img" and attrs.get("aria-label")) or "aria-hidden" in attrs
        for tag, attrs in page.tags
        if tag == "svg"
    )
    assert "Undefined: one class only." in page.text


def test_a_large_report_stays_small_enough_to_open(tmp_path: Path) -> None:
    sizes = {f"generator_{n}": (150, 150) for n in range(8)}
    for detector in range(3):
        one = Run(images(sizes, 0.7, seed=detector), checkpoint=f"/w/{detector}.pth")
        one.write(tmp_path / f"runs/{detector}")
    text = page_of(tmp_path / "runs")
    # 14 benchmarks of this kind, and 2.5 MB of thumbnails as base64: below 6.5 MB.
    assert 14 * len(text.encode()) + 2.5e6 * 4 / 3 < 6.5e6, len(text.encode())


def browse(page: Path) -> tuple[str, list[str]]:
    """Open a page without a network, and return what it became and what the console says; refused requests are in it."""
    assert CHROMIUM is not None
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    arguments += [f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", "--v=0", page.absolute().as_uri()]
    done = subprocess.run([CHROMIUM, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser(hostile: Path) -> None:
    """Checked: the script runs (buttons and the filter are there), nothing is on the console, which is where the page's own
    policy would name every request and every script that it refuses, and no name from outside has become an element.
    """
    with pytest.raises(IncompleteRunError):
        page_of(hostile)
    became, console = browse(Path("out/report.html"))
    assert console == []
    page = Page(became)
    assert "<title>Detection report</title>" in became
    assert [tag for tag, _ in page.tags].count("button") > 10
    assert [attrs.get("aria-label") for tag, attrs in page.tags if tag == "input"] == ["Filter benchmarks"]
    assert not [attrs for tag, attrs in page.tags if tag == "img" and not (attrs.get("src") or "").startswith("data:")]

    # The console does name what is refused: a request, and a script that is not the page's own.
    text = Path("out/report.html").read_text()
    for attack in ('<img src="http://127.0.0.1:9/x.png">', "<script>document.title = 'owned'</script>"):
        Path("attacked.html").write_text(text.replace("<header>", f"<header>{attack}"))
        became, console = browse(Path("attacked.html"))
        assert len(console) == 1
        assert "Content Security Policy" in console[0]
        assert "<title>Detection report</title>" in became
